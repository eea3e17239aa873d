"""Two selected experts of three: a sparse gate that is identified, at n^(-1/2).

  python experiments/theory.py --config configs/theory/sparse_softmax.py --workdir runs/theory/sparse_softmax

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 44 s; 95 % intervals.

  D1: -0.503 [-0.538, -0.467], confirmed with the corrected protocol, 3 failed fits
  D1 over translations: -0.443 [-0.471, -0.416], confirmed with the corrected protocol, 3 failed fits
  gate kernel 1: -0.457 [-0.509, -0.403], confirmed, 3 failed fits
  gate kernel 2: -0.489 [-0.544, -0.433], confirmed, 3 failed fits
  weight 2: -0.516 [-0.568, -0.47], confirmed, 3 failed fits
  bias 2: -0.523 [-0.578, -0.475], confirmed, 3 failed fits
  variance 2: -0.476 [-0.526, -0.427], confirmed, 3 failed fits
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
