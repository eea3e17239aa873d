"""Fashion-MNIST in full: 60,000 and 10,000 pictures of garments, 28x28 grey, 10 classes.

Source: Xiao et al. 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms".
Deviations: `validation_size` of the training pictures are held out as validation.
"""

import dataclasses

import numpy as np

from moejax.core.errors import SpecError
from moejax.data.dataset import ArraySplit, Opened
from moejax.data.fashion_mnist_12k import GARMENTS, hold_out
from moejax.data.prepare.fashion_mnist_files import find_folder, read_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class FashionMnist:
    """folder: holds the four idx files; None: the system's package, then the cache, then a download.

    validation_size: pictures held out from training, chosen by a hash.
    """

    folder: str | None = None
    validation_size: int = 5000

    def __post_init__(self) -> None:
        if self.validation_size < 1:
            raise SpecError(f"data.validation_size={self.validation_size} must be at least 1.")

    def open(self) -> Opened:
        """Splits of 55,000, 5,000 and 10,000 pictures [28 28 1]."""
        train_images, train_labels, test_images, test_labels = read_files(find_folder(self.folder))
        if self.validation_size >= len(train_images):
            raise SpecError(f"data.validation_size={self.validation_size} leaves none of {len(train_images)} pictures.")
        whole = ArraySplit(train_images[..., None], train_labels.astype(np.int32))
        train, validation = hold_out(whole, self.validation_size, salt="fashion_mnist")
        test = ArraySplit(test_images[..., None], test_labels.astype(np.int32))
        return Opened(class_names=GARMENTS, splits={"train": train, "validation": validation, "test": test})


EXAMPLES = (FashionMnist(),)
