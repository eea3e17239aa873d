"""One expert too many under a dense softmax gate: n up to ten thousand million, by counts on a lattice.

  python experiments/theory.py --config configs/theory/over_specified_softmax.py --workdir runs/theory/over_specified_softmax

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=60, smoke=False)
    config = ConfigDict()
    config.name = "over_specified_softmax"
    config.seed = args.seed
    config.replicates = args.replicates
    config.sizes = tuple(10**power for power in range(4, 11))
    if args.smoke:
        config.update(sizes=(10**6, 10**7, 10**8), replicates=5, iterations=15)
    return config
