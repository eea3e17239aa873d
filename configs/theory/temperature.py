"""A learned temperature: not identified behind a linear router, at n^(-1/2) behind an activation.

  python experiments/theory.py --config configs/theory/temperature.py --workdir runs/theory/temperature

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "temperature"
    config.seed = args.seed
    config.replicates = args.replicates
    config.routers = ("identity", "relu", "tanh", "gelu")
    if args.smoke:
        config.update(sizes=(1000, 10_000, 100_000), routers=("identity", "tanh"), replicates=5)
    return config
