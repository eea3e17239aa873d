"""Experts, degree and blocks of covariances, selected together by the slope heuristic.

  python experiments/theory.py --config configs/theory/block_selection.py --workdir runs/theory/block_selection

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-30, two CPU cores beside eight other programs, jax 0.10.2, seed 0, 595 s; 95 % intervals.

  dimension jump: divergence: -0.925 [-1.05, -0.811], confirmed
  data-driven slope: divergence: -0.982 [-1.05, -0.914], confirmed
  dimension jump: share of trials with two experts: 0.887 [0.797, 0.947], confirmed
  dimension jump: share of trials with linear experts: 0.975 [0.913, 0.997], confirmed
  dimension jump: share of trials with the true number, degree and blocks: 0.825 [0.724, 0.901], confirmed
  dimension jump: risk over that of the best model: 1.17 [1.03, 1.43], confirmed
  dimension jump: risk over that of two linear experts with full covariances: 0.791 [0.692, 0.96], confirmed
  data-driven slope: share of trials with two experts: 1 [0.955, 1], confirmed
  data-driven slope: share of trials with linear experts: 1 [0.955, 1], confirmed
  data-driven slope: share of trials with the true number, degree and blocks: 0.95 [0.877, 0.986], confirmed
  data-driven slope: risk over that of the best model: 1 [1, 1], confirmed
  data-driven slope: risk over that of two linear experts with full covariances: 0.677 [0.655, 0.698], confirmed
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=20, smoke=False)
    config = ConfigDict()
    config.name = "block_selection"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(200, 300, 400), num_experts=(1, 2, 3), degrees=(1,), replicates=5, max_steps=10, starts=1)
    return config
