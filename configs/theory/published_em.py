"""The published simulation of dense softmax gates with its own starts and stopping rule: a rate, and an artefact.

  python experiments/theory.py --config configs/theory/published_em.py --workdir runs/theory/published_em

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 58 s; 95 % intervals.

  D1: -0.492 [-0.505, -0.478], confirmed
  gate bias 1: -0.515 [-0.529, -0.498], confirmed
  gate kernel 1: -0.515 [-0.53, -0.498], confirmed
  weight 1: -0.501 [-0.516, -0.487], confirmed
  bias 1: -0.496 [-0.51, -0.483], confirmed
  variance 1: -0.492 [-0.506, -0.476], confirmed
  weight 2: -0.491 [-0.506, -0.476], confirmed
  bias 2: -0.489 [-0.504, -0.475], confirmed
  variance 2: -0.509 [-0.522, -0.495], confirmed
  D1 at n = 100000: 0.0211 [0.0167, 0.0256], confirmed
  share of D2 near 1: 0.55 [0.502, 0.598], artefact
  median of D2 over translations: 0.00337 [0.00221, 0.00547], confirmed with the corrected protocol
  bias, two-atom cells: -0.431 [-0.542, -0.281], artefact
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "published_em"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(200, 300, 400), over_sizes=(400, 600, 800), replicates=5, tries=1, groups=1)
    return config
