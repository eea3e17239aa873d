"""Least squares with one expert too many: sigmoid experts against linear ones.

  python experiments/theory.py --config configs/theory/least_squares.py --workdir runs/theory/least_squares

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 28 s; 95 % intervals.

  D1 sigmoid: -0.562 [-0.609, -0.522], not testable, 1 failed fits
  cell expert sigmoid: -0.263 [-0.339, -0.208], confirmed, 1 failed fits
  D1 exact sigmoid: -0.495 [-0.519, -0.472], confirmed
  D1 exact linear: -0.512 [-0.539, -0.488], confirmed
  function sigmoid: -0.502 [-0.51, -0.495], confirmed, 1 failed fits
  function linear: -0.505 [-0.514, -0.497], confirmed, 1 failed fits
  flat direction linear: 3.55e-15 [3.55e-15, 3.55e-15], confirmed
  D1 linear: not testable
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
