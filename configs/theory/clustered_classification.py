"""Classification in clusters: linear and cubic experts against single networks, in both settings of the paper.

  python experiments/theory.py --config configs/theory/clustered_classification.py --workdir runs/theory/clustered_classification

Arguments: seed, num_seeds, smoke (few steps, few seeds).

Record: not yet run.
"""

from ml_collections import ConfigDict

from moejax.core.arguments import parse


def get_config(arg: str = "") -> ConfigDict:
    """The study's config; see the module's docstring for the arguments."""
    args = parse(arg, seed=0, num_seeds=4, smoke=False)
    config = ConfigDict()
    config.name = "clustered_classification"
    config.seed = args.seed
    config.num_seeds = args.num_seeds
    config.epochs = 200
    if args.smoke:
        config.update(num_examples=200, epochs=20, network_examples=200, network_epochs=20, num_test=200, num_seeds=3)
    return config
