"""One selected expert of two: experts at n^(-1/2), their boundary at 1/n, a gate that no data show.

  python experiments/theory.py --config configs/theory/top_1.py --workdir runs/theory/top_1

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 9 s; 95 % intervals.

  D1: -0.497 [-0.521, -0.469], confirmed with the corrected protocol
  boundary: -1 [-1.04, -0.966], confirmed
  weight 1: -0.492 [-0.525, -0.465], confirmed
  bias 1: -0.497 [-0.529, -0.471], confirmed
  variance 1: -0.505 [-0.539, -0.475], confirmed
  weight 2: -0.509 [-0.538, -0.479], confirmed
  bias 2: -0.49 [-0.518, -0.46], confirmed
  variance 2: -0.508 [-0.534, -0.481], confirmed
  gate bias 1: not testable
  gate kernel 1: not testable
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
