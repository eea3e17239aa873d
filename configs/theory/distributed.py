"""Mixtures fitted on shards and reduced to one by transport, against all data at once.

  python experiments/theory.py --config configs/theory/distributed.py --workdir runs/theory/distributed

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 11 s; 95 % intervals.

  4 shards: mean squared error of the reduction over the global estimate's: 1.01 [0.993, 1.03], confirmed
  4 shards: mean squared error of the reduction over the unaligned average's: 0.000652 [0.00052, 0.000865], confirmed
  4 shards: rows that EM visits on the slowest, times the number of shards, over the global fit's: 1.1 [1.05, 1.16], confirmed
  16 shards: mean squared error of the reduction over the global estimate's: 1.03 [0.975, 1.09], confirmed
  16 shards: mean squared error of the reduction over the unaligned average's: 0.000465 [0.000384, 0.000551], confirmed
  16 shards: rows that EM visits on the slowest, times the number of shards, over the global fit's: 1.3 [1.2, 1.41], confirmed
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=12, smoke=False)
    config = ConfigDict()
    config.name = "distributed"
    config.seed = args.seed
    config.replicates = args.replicates
    config.num_examples = 20_000
    config.shards = (1, 4, 16)
    if args.smoke:
        config.update(num_examples=2000, shards=(1, 2), replicates=5, max_steps=50)
    return config
