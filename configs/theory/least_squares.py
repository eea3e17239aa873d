"""Least squares with one expert too many: sigmoid experts against linear ones.

  python experiments/theory.py --config configs/theory/least_squares.py --workdir runs/theory/least_squares

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=20, smoke=False)
    config = ConfigDict()
    config.name = "least_squares"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(10**6, 10**7, 10**8), replicates=5, iterations=20)
    return config
