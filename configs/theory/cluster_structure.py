"""Two clusters whose easy signals cancel: a mixture of experts against one network, under one-pass SGD.

  python experiments/theory.py --config configs/theory/cluster_structure.py --workdir runs/theory/cluster_structure

Arguments: seed, num_seeds, smoke (few steps, few seeds).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, num_seeds=5, smoke=False)
    config = ConfigDict()
    config.name = "cluster_structure"
    config.seed = args.seed
    config.num_seeds = args.num_seeds
    config.steps = 4000
    if args.smoke:
        config.update(steps=50, num_test=100, num_seeds=3)
    return config
