"""Gaussian gates with one or two experts too many: the published slopes, and those of EM to convergence.

  python experiments/theory.py --config configs/theory/gaussian_gated.py --workdir runs/theory/gaussian_gated

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "gaussian_gated"
    config.seed = args.seed
    config.replicates = args.replicates
    config.models = (1, 2, 3, 4)
    if args.smoke:
        config.update(
            models=(1,),
            sizes=(100, 200, 400),
            replicates=5,
            converged_sizes=(100, 200, 400),
            converged_replicates=5,
            max_steps=20,
        )
    return config
