"""The l1-penalised mixture in more dimensions than examples, against the order of its oracle inequality.

  python experiments/theory.py --config configs/theory/lasso.py --workdir runs/theory/lasso

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=6, smoke=False)
    config = ConfigDict()
    config.name = "lasso"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(
            sizes=(100, 200, 400),
            dim=20,
            dims=(10, 20),
            size=200,
            penalties=(0.02, 0.08, 0.32),
            replicates=5,
            num_test=50,
            iterations=20,
        )
    return config
