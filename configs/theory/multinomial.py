"""Multinomial logistic experts: the rates with one expert too many, and a constant expert that splits exactly.

  python experiments/theory.py --config configs/theory/multinomial.py --workdir runs/theory/multinomial

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
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
