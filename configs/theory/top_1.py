"""One selected expert of two: experts at n^(-1/2), their boundary at 1/n, a gate that no data show.

  python experiments/theory.py --config configs/theory/top_1.py --workdir runs/theory/top_1

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "top_1"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(100, 200, 400), replicates=5)
    return config
