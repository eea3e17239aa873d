"""The published simulation of dense softmax gates with its own starts and stopping rule: a rate, and an artefact.

  python experiments/theory.py --config configs/theory/published_em.py --workdir runs/theory/published_em

Arguments: seed, replicates, smoke (few sizes, few replicates).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, replicates=40, smoke=False)
    config = ConfigDict()
    config.name = "published_em"
    config.seed = args.seed
    config.replicates = args.replicates
    if args.smoke:
        config.update(sizes=(200, 300, 400), over_sizes=(400, 600, 800), replicates=5, tries=1, groups=1)
    return config
