"""Gaussian gates with one or two experts too many: the published slopes, and those of EM to convergence.

  python experiments/theory.py --config configs/theory/gaussian_gated.py --workdir runs/theory/gaussian_gated

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: 2026-11-23, one of two CPU cores beside another study, jax 0.10.2, seed 0, 48 s; 95 % intervals.

  model 1, 4 experts: loss after one step of EM: -0.514 [-0.531, -0.497], artefact
  model 1, 5 experts: loss after one step of EM: -0.515 [-0.534, -0.497], artefact
  model 2, 4 experts: loss after one step of EM: -0.506 [-0.525, -0.487], artefact
  model 2, 5 experts: loss after one step of EM: -0.515 [-0.538, -0.491], artefact
  model 3, 4 experts: loss after one step of EM: -0.513 [-0.53, -0.496], artefact
  model 3, 5 experts: loss after one step of EM: -0.53 [-0.55, -0.51], artefact
  model 4, 4 experts: loss after one step of EM: -0.516 [-0.533, -0.5], artefact
  model 4, 5 experts: loss after one step of EM: -0.516 [-0.535, -0.496], artefact
  model 1, 4 experts: loss after EM to convergence: -0.539 [-0.639, -0.444], confirmed with the corrected protocol
  model 2, 4 experts: loss after EM to convergence: -0.525 [-0.587, -0.469], confirmed with the corrected protocol, 3 failed fits
  model 3, 4 experts: loss after EM to convergence: -0.549 [-0.636, -0.455], confirmed with the corrected protocol, 2 failed fits
  model 4, 4 experts: loss after EM to convergence: -0.58 [-0.675, -0.469], confirmed with the corrected protocol
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "gaussian_gated"
    config.seed = args.seed
    config.replicates = args.replicates
    config.models = (1, 2, 3, 4)
    if args.smoke:
        config.update(
            models=(1,),
            sizes=(100, 200, 400),
            replicates=5,
            converged_sizes=(100, 200, 400),
            converged_replicates=5,
            max_steps=20,
        )
    return config
