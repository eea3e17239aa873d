"""Mixtures fitted on shards and reduced to one by transport, against all data at once.

  python experiments/theory.py --config configs/theory/distributed.py --workdir runs/theory/distributed

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=12, smoke=False)
    config = ConfigDict()
    config.name = "distributed"
    config.seed = args.seed
    config.replicates = args.replicates
    config.num_examples = 20_000
    config.shards = (1, 4, 16)
    if args.smoke:
        config.update(num_examples=2000, shards=(1, 2), replicates=5, max_steps=50)
    return config
