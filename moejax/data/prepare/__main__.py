"""`python -m moejax.data.prepare NAME`: downloads a data set and writes what training reads.

For image sets of TFDS this needs TensorFlow once (`pip install 'moejax[prepare]'`); training does not.
"""

import argparse
import sys

from moejax.core.errors import SpecError
from moejax.core.spec import methods


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m moejax.data.prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="'fashion_mnist', or an image set of TFDS such as cifar10 or imagenet2012")
    parser.add_argument("--data-dir", help="folder to write to (TFDS: its default, ~/tensorflow_datasets)")
    chosen = parser.parse_args(arguments)
    try:
        sizes = _prepare_own(chosen.name) if chosen.name in methods("data") else _prepare_tfds(chosen)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{chosen.name} is ready: {sizes}")
    return 0


def _prepare_own(name: str) -> dict[str, int]:
    from moejax.data.opening import build

    return dict(build(name).info.split_sizes)


def _prepare_tfds(chosen: argparse.Namespace) -> dict[str, int]:
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise SpecError("Preparing a TFDS set needs TensorFlow once: pip install 'moejax[prepare]'.") from error
    import tensorflow_datasets as tfds

    builder = tfds.builder(chosen.name, data_dir=chosen.data_dir, file_format="array_record")
    builder.download_and_prepare()
    return {name: split.num_examples for name, split in builder.info.splits.items()}


if __name__ == "__main__":
    sys.exit(main())
