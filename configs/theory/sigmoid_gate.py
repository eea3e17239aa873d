"""One expert too many under a sigmoid gate and under a softmax.

  python experiments/theory.py --config configs/theory/sigmoid_gate.py --workdir runs/theory/sigmoid_gate

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-30, two CPU cores beside other programs, jax 0.10.2, seed 0, 175 s; 95 % intervals.

  sigmoid relu: -0.518 [-0.583, -0.461], confirmed, 12 failed fits
  sigmoid linear: -0.503 [-0.595, -0.379], confirmed, 32 failed fits
  sigmoid gelu: -0.543 [-0.584, -0.501], confirmed, 4 failed fits
  softmax gelu, every atom: -0.258 [-0.368, -0.217], confirmed, 1 failed fits
  constant gelu, every atom: -1.87e-05 [-0.326, 0.000158], not testable, 6 failed fits
  softmax relu: not testable
  constant relu: not testable
  softmax linear: not testable
  constant linear: not testable
  sigmoid below softmax, relu: 1 [0.59, 1], confirmed
  sigmoid below softmax, linear: 0.857 [0.421, 0.996], not confirmed
  sigmoid below softmax, gelu: 1 [0.59, 1], confirmed

  In the first regime ("constant") three of five to nine of ten fits make the atom too many the null expert, a = b = 0, which is as good as
  two that share the constant gate: the median is the distance of that atom, no rate, and the few fits that share are too few for one.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=16, smoke=False)
    config = ConfigDict()
    config.name = "sigmoid_gate"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(10**6, 10**7, 10**8), replicates=5, iterations=20)
    return config
