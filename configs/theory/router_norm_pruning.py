"""Experts whose router vectors grew in fine-tuning are those to keep.

  python experiments/theory.py --config configs/theory/router_norm_pruning.py --workdir runs/theory/router_norm_pruning

Arguments: seed, num_seeds, smoke (few steps, few seeds).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, num_seeds=12, smoke=False)
    config = ConfigDict()
    config.name = "router_norm_pruning"
    config.seed = args.seed
    config.num_seeds = args.num_seeds
    config.steps = 600
    if args.smoke:
        config.update(steps=20, num_test=50, num_seeds=3)
    return config
