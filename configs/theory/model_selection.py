"""How many Gaussian-gated experts: penalties by the slope heuristic.

  python experiments/theory.py --config configs/theory/model_selection.py --workdir runs/theory/model_selection

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=16, smoke=False)
    config = ConfigDict()
    config.name = "model_selection"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(200, 400, 800), num_experts=(1, 2, 3, 4), replicates=5, max_steps=10)
    return config
