"""Laplace and cosine gates: rates, and the ray along which a cosine has none.

  python experiments/theory.py --config configs/theory/bounded_gates.py --workdir runs/theory/bounded_gates

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-30, two CPU cores beside eight other programs, jax 0.10.2, seed 0, 311 s; 95 % intervals.

  laplace: D1: -0.493 [-0.52, -0.461], confirmed
  laplace: gate kernel: -0.482 [-0.53, -0.442], confirmed
  laplace: gate bias: -0.52 [-0.591, -0.435], confirmed
  laplace: weight: -0.524 [-0.559, -0.494], confirmed
  laplace: bias: -0.494 [-0.528, -0.466], confirmed
  laplace: log_variance: -0.491 [-0.536, -0.459], confirmed
  cosine: direction: -0.512 [-0.598, -0.451], confirmed
  cosine: weight: -0.477 [-0.517, -0.428], confirmed
  cosine: bias: -0.477 [-0.531, -0.433], confirmed
  cosine: log_variance: -0.488 [-0.525, -0.437], confirmed
  perturbed cosine: gate kernel: -0.516 [-0.561, -0.466], confirmed
  perturbed cosine: weight: -0.493 [-0.557, -0.454], confirmed
  perturbed cosine: bias: -0.524 [-0.563, -0.48], confirmed
  perturbed cosine: log_variance: -0.496 [-0.533, -0.47], confirmed
  cosine: least eigenvalue of the Fisher information: 1.28e-16 [1.28e-16, 1.28e-16], confirmed
  cosine: gate kernel: not testable
  perturbed cosine, learned temperature: temperature: not testable
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=24, smoke=False)
    config = ConfigDict()
    config.name = "bounded_gates"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(10_000, 100_000, 1_000_000), replicates=5, iterations=10)
    return config
