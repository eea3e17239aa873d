"""One expert too many under a dense softmax gate: n up to ten thousand million, by counts on a lattice.

  python experiments/theory.py --config configs/theory/over_specified_softmax.py --workdir runs/theory/over_specified_softmax

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 25 s; 95 % intervals.

  D2: -0.5 [-0.518, -0.482], confirmed with the corrected protocol
  weight, unsplit expert: -0.505 [-0.548, -0.458], confirmed
  bias, unsplit expert: -0.49 [-0.533, -0.445], confirmed
  mass, split cell: -0.504 [-0.531, -0.466], confirmed
  bias, split cell, location: -0.128 [-0.138, -0.112], confirmed
  variance, split cell, location: -0.243 [-0.262, -0.229], confirmed
  variance, split cell, variance: -0.263 [-0.305, -0.218], confirmed
  gate kernel, split cell, all: -0.284 [-0.315, -0.235], confirmed
  weight, split cell, all: -0.305 [-0.352, -0.261], confirmed
  bias, split cell, all: not testable
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
