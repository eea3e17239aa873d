"""How little the density moves when two fitted atoms share a true one: the powers behind the rates, without any data.

  python experiments/theory.py --config configs/theory/modulus.py --workdir runs/theory/modulus

Arguments: seed, smoke (few distances).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 5 s; 95 % intervals.

  bias: 4.01 [4.01, 4.01], confirmed
  gate kernel: 2 [2, 2], confirmed
  weight: 1.96 [1.96, 1.96], confirmed
  log variance: 1.91 [1.91, 1.91], confirmed
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, smoke=False)
    config = ConfigDict()
    config.name = "modulus"
    config.seed = args.seed
    config.distances = (0.6, 0.42, 0.3, 0.21, 0.15, 0.105, 0.0525)
    if args.smoke:
        config.update(distances=(0.42, 0.3, 0.21))
    return config
