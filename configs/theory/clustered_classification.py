"""Classification in clusters: linear and cubic experts against single networks, in both settings of the paper.

  python experiments/theory.py --config configs/theory/clustered_classification.py --workdir runs/theory/clustered_classification

Arguments: seed, num_seeds, smoke (few steps, few seeds).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 122 s; 95 % intervals.

  single-linear accuracy 1: 68.2 [66.4, 69.9], confirmed
  single-cubic accuracy 1: 78.2 [77.3, 79], confirmed
  moe-linear accuracy 1: 91.7 [88.8, 94.6], confirmed
  moe-cubic accuracy 1: 99.6 [98.9, 100], confirmed
  moe-linear entropy 1: 1.29 [1.2, 1.39], confirmed
  moe-cubic entropy 1: 0.101 [0.0173, 0.185], confirmed
  mixtures above networks 1: 1 [0.398, 1], confirmed
  cubic network above linear 1: 1 [0.398, 1], confirmed
  entropy falls 1: 1 [0.398, 1], confirmed
  mixtures above networks 2: 1 [0.398, 1], confirmed
  cubic network above linear 2: 1 [0.398, 1], confirmed
  entropy falls 2: 1 [0.398, 1], confirmed
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, num_seeds=4, smoke=False)
    config = ConfigDict()
    config.name = "clustered_classification"
    config.seed = args.seed
    config.num_seeds = args.num_seeds
    config.epochs = 200
    if args.smoke:
        config.update(num_examples=200, epochs=20, network_examples=200, network_epochs=20, num_test=200, num_seeds=3)
    return config
