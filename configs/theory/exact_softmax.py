"""As many experts as the truth has, dense softmax gate: every parameter at n^(-1/2).

  python experiments/theory.py --config configs/theory/exact_softmax.py --workdir runs/theory/exact_softmax

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "exact_softmax"
    config.seed = args.seed
    config.replicates = args.replicates
    config.sizes = (100, 178, 316, 562, 1000, 1778, 3162, 5623, 10_000, 17_783, 31_623, 56_234, 100_000)
    if args.smoke:
        config.update(sizes=(100, 200, 400), replicates=5)
    return config
