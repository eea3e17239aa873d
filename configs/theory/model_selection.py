"""How many Gaussian-gated experts: penalties by the slope heuristic.

  python experiments/theory.py --config configs/theory/model_selection.py --workdir runs/theory/model_selection

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 57 s; 95 % intervals.

  linear: divergence by dimension jump: -0.678 [-0.87, -0.514], not confirmed
  linear: divergence by dimension jump: -0.678 [-0.87, -0.514], not testable
  linear: divergence by data-driven slope: -0.823 [-0.95, -0.703], not testable
  linear: divergence by knowing the truth: -0.907 [-1.03, -0.796], confirmed
  parabolic: divergence by dimension jump: -0.918 [-1, -0.825], not confirmed
  parabolic: divergence by data-driven slope: -0.861 [-0.939, -0.78], not confirmed
  linear: share of trials in which the dimension jump selects two experts: 0.887 [0.8, 0.94], confirmed
  linear: share of trials in which the data-driven slope selects two experts: 0.912 [0.83, 0.957], confirmed
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=16, smoke=False)
    config = ConfigDict()
    config.name = "model_selection"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(200, 400, 800), num_experts=(1, 2, 3, 4), replicates=5, max_steps=10)
    return config
