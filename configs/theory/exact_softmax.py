"""As many experts as the truth has, dense softmax gate: every parameter at n^(-1/2).

  python experiments/theory.py --config configs/theory/exact_softmax.py --workdir runs/theory/exact_softmax

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 111 s; 95 % intervals.

  D1: -0.497 [-0.525, -0.471], confirmed, 8 failed fits
  weight 2: -0.51 [-0.539, -0.479], confirmed, 8 failed fits
  bias 2: -0.504 [-0.533, -0.471], confirmed, 8 failed fits
  variance 2: -0.478 [-0.508, -0.449], confirmed, 8 failed fits
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
