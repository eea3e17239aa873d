"""The l1-penalised mixture in more dimensions than examples, against the order of its oracle inequality.

  python experiments/theory.py --config configs/theory/lasso.py --workdir runs/theory/lasso

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 50 s; 95 % intervals.

  best lambda over the order: -1.17 [-1.24, -1.11], not confirmed
  best lambda: 2.43 [2.39, 2.49], not confirmed, 58 failed fits
  divergence within the bound: 1 [0.916, 1], confirmed
  fall with n short of 1/2: 0 [0, 0], confirmed
  growth with p beyond 1/2: 1.42 [1.17, 1.67], not confirmed
  support found, n=3200: 1 [1, 1], confirmed
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
