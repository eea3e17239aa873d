"""Many small experts against few large ones with the same parameters.

  python experiments/theory.py --config configs/theory/granularity.py --workdir runs/theory/granularity

Arguments: seed, num_seeds, smoke (few steps, few seeds).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 23 s; 95 % intervals.

  error falls from k=1 to k=2: 1 [0.292, 1], confirmed
  error falls from k=2 to k=4: 1 [0.292, 1], confirmed
  error falls from k=4 to k=8: 1 [0.292, 1], confirmed
  error at k=8 over that at k=1: 0.409 [0.33, 0.488], confirmed
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, num_seeds=3, smoke=False)
    config = ConfigDict()
    config.name = "granularity"
    config.seed = args.seed
    config.num_seeds = args.num_seeds
    config.steps = 3000
    if args.smoke:
        config.update(active=(1, 2), active_units=4, steps=20, num_test=100)
    return config
