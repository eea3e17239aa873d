"""Fashion-MNIST, 12,000 pictures: 28x28 grey photographs of garments in 10 classes.

Source: Xiao et al. 2017; the first 10,000 training and 2,000 test pictures, packaged.
Deviations: 1,000 of the training pictures are held out as validation.
"""

import dataclasses
from pathlib import Path

import numpy as np

from moejax.data.dataset import ArraySplit, Opened
from moejax.data.packaged_files import PACKAGED, hash_order, load_npz

GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILE = "fashion_mnist_12k.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FashionMnist12k:
    """folder: where the file lies, if not in the package."""

    folder: str | None = None

    def open(self) -> Opened:
        """Splits of 9,000, 1,000 and 2,000 pictures [28 28 1]."""
        keys = ("train_image", "train_label", "test_image", "test_label")
        data = load_npz(Path(self.folder or PACKAGED) / FILE, keys)
        whole = ArraySplit(data["train_image"][..., None], data["train_label"].astype(np.int32))
        train, validation = hold_out(whole, 1000, salt="fashion_mnist_12k")
        test = ArraySplit(data["test_image"][..., None], data["test_label"].astype(np.int32))
        return Opened(class_names=GARMENTS, splits={"train": train, "validation": validation, "test": test})


def hold_out(split: ArraySplit, size: int, *, salt: str) -> tuple[ArraySplit, ArraySplit]:
    """(the rest, `size` held-out pictures), chosen by a hash of the position."""
    order = hash_order([str(i) for i in range(len(split))], salt=salt)
    return split.take(np.sort(order[size:])), split.take(np.sort(order[:size]))


EXAMPLES = (FashionMnist12k(),)
