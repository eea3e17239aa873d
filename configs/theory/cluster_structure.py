"""Two clusters whose easy signals cancel: a mixture of experts against one network, under one-pass SGD.

  python experiments/theory.py --config configs/theory/cluster_structure.py --workdir runs/theory/cluster_structure

Arguments: seed, num_seeds, smoke (few steps, few seeds).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 19 s; 95 % intervals.

  router accuracy: 0.998 [0.996, 1], confirmed
  mixture first off the plateau: 1 [0.478, 1], confirmed
  mixture ends lower: 0.2 [0.00505, 0.716], not confirmed
  mixture finds the directions: 0.8 [0.284, 0.995], not confirmed
  times earlier: 1.63 [1.31, 1.95], not confirmed
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, num_seeds=5, smoke=False)
    config = ConfigDict()
    config.name = "cluster_structure"
    config.seed = args.seed
    config.num_seeds = args.num_seeds
    config.steps = 4000
    if args.smoke:
        config.update(steps=50, num_test=100, num_seeds=3)
    return config
