"""A learned temperature: not identified behind a linear router, at n^(-1/2) behind an activation.

  python experiments/theory.py --config configs/theory/temperature.py --workdir runs/theory/temperature

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 36 s; 95 % intervals.

  identity: weight: -0.485 [-0.554, -0.427], confirmed
  identity: shift: -0.558 [-0.614, -0.492], confirmed
  identity: log_variance: -0.491 [-0.544, -0.446], confirmed
  identity: least eigenvalue of the Fisher information: 3.01e-17 [3.01e-17, 3.01e-17], confirmed
  identity: temperature: not testable
  identity: kernel: not testable
  identity: bias: not testable
  identity: kernel / temperature: -0.491 [-0.532, -0.454], confirmed
  identity: bias / temperature: -0.508 [-0.555, -0.447], confirmed
  relu: weight: -0.518 [-0.577, -0.477], confirmed
  relu: shift: -0.533 [-0.586, -0.487], confirmed
  relu: log_variance: -0.515 [-0.55, -0.47], confirmed
  relu: least eigenvalue of the Fisher information: 2.22e-17 [2.22e-17, 2.22e-17], confirmed
  relu: temperature: not testable
  relu: kernel: not testable
  relu: bias: not testable
  relu: kernel / temperature: -0.508 [-0.553, -0.446], confirmed
  relu: bias / temperature: -0.469 [-0.532, -0.416], confirmed
  tanh: weight: -0.492 [-0.559, -0.428], confirmed, 1 failed fits
  tanh: shift: -0.469 [-0.515, -0.422], confirmed, 1 failed fits
  tanh: log_variance: -0.475 [-0.55, -0.406], confirmed, 1 failed fits
  tanh: temperature: -0.528 [-0.575, -0.46], confirmed, 1 failed fits
  tanh: kernel: -0.51 [-0.559, -0.452], confirmed, 1 failed fits
  tanh: bias: -0.504 [-0.564, -0.468], confirmed, 1 failed fits
  gelu: weight: -0.518 [-0.558, -0.442], confirmed, 1 failed fits
  gelu: shift: -0.502 [-0.55, -0.424], confirmed, 1 failed fits
  gelu: log_variance: -0.497 [-0.549, -0.448], confirmed, 1 failed fits
  gelu: temperature: -0.473 [-0.509, -0.431], confirmed, 1 failed fits
  gelu: kernel: -0.471 [-0.515, -0.41], confirmed, 1 failed fits
  gelu: bias: -0.497 [-0.551, -0.453], confirmed, 1 failed fits
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "temperature"
    config.seed = args.seed
    config.replicates = args.replicates
    config.routers = ("identity", "relu", "tanh", "gelu")
    if args.smoke:
        config.update(sizes=(1000, 10_000, 100_000), routers=("identity", "tanh"), replicates=5)
    return config
