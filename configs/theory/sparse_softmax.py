"""Two selected experts of three: a sparse gate that is identified, at n^(-1/2).

  python experiments/theory.py --config configs/theory/sparse_softmax.py --workdir runs/theory/sparse_softmax

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "sparse_softmax"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(316, 500, 800), replicates=5)
    return config
