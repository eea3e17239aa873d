"""Multinomial logistic experts: the rates with one expert too many, and a constant expert that splits exactly.

  python experiments/theory.py --config configs/theory/multinomial.py --workdir runs/theory/multinomial

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 44 s; 95 % intervals.

  experts of the input, gate of x: D1: -0.509 [-0.539, -0.479], confirmed, 7 failed fits
  experts of the input, gate of x: cell gate: -0.304 [-0.404, -0.139], confirmed, 7 failed fits
  experts of the input, gate of x: cell intercept: -0.269 [-0.291, -0.258], confirmed, 7 failed fits
  experts of the input, gate of x: cell slope: -0.276 [-0.301, -0.258], confirmed, 7 failed fits
  experts of the input, gate of x: singleton: -0.486 [-0.522, -0.449], confirmed, 7 failed fits
  experts of the input, gate of x: mass: -0.475 [-0.525, -0.426], confirmed, 7 failed fits
  experts of the input, gate of tanh(x): D1: -0.489 [-0.518, -0.465], confirmed, 7 failed fits
  experts of the input, gate of tanh(x): cell gate: -0.244 [-0.346, -0.133], confirmed, 7 failed fits
  experts of the input, gate of tanh(x): cell intercept: -0.258 [-0.287, -0.243], confirmed, 7 failed fits
  experts of the input, gate of tanh(x): cell slope: -0.272 [-0.285, -0.26], confirmed, 7 failed fits
  experts of the input, gate of tanh(x): singleton: -0.483 [-0.531, -0.429], confirmed, 7 failed fits
  experts of the input, gate of tanh(x): mass: -0.486 [-0.545, -0.396], confirmed, 7 failed fits
  a constant expert, gate of x: D1: -0.483 [-0.504, -0.467], confirmed
  a constant expert, gate of x: cell intercept: -0.491 [-0.515, -0.464], confirmed
  a constant expert, gate of x: change of the density by an exact split: 2.22e-16 [2.22e-16, 2.22e-16], confirmed
  a constant expert, gate of x, one expert too many: D1: not testable
  a constant expert, gate of tanh(x): D1: -0.496 [-0.517, -0.465], confirmed
  a constant expert, gate of tanh(x): cell intercept: -0.508 [-0.529, -0.475], confirmed
  a constant expert, gate of tanh(x): change of the density by an exact split: 2.22e-16 [2.22e-16, 2.22e-16], confirmed
  a constant expert, gate of tanh(x), one expert too many: D1: not testable
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=30, smoke=False)
    config = ConfigDict()
    config.name = "multinomial"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(10**7, 10**8, 10**9), replicates=5, starts=1, iterations=20)
    return config
