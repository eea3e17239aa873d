"""Handwritten digits: 1,797 pictures of 8x8, enlarged to 32x32, in 10 classes.

Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI, CC-BY-4.0), as it comes with
scikit-learn. Deviations: enlarged bilinearly; 360 pictures are test and 180 validation.
"""

import dataclasses

import numpy as np

from moejax.data.dataset import ArraySplit, Opened
from moejax.data.fashion_mnist_12k import hold_out
from moejax.data.packaged_files import enlarge

DIGITS = tuple(f"digit {n}" for n in range(10))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """No fields: the pictures come with scikit-learn."""

    def open(self) -> Opened:
        """Splits of 1,257, 180 and 360 pictures [32 32 1]."""
        from sklearn.datasets import load_digits  # slow to import

        data = load_digits()
        grey = (data.images.astype(np.int64) * 255 + 8) // 16  # 0..16 -> 0..255
        whole = ArraySplit(enlarge(grey.astype(np.uint8), 4)[..., None], data.target.astype(np.int32))
        rest, test = hold_out(whole, 360, salt="digits test")
        train, validation = hold_out(rest, 180, salt="digits validation")
        return Opened(class_names=DIGITS, splits={"train": train, "validation": validation, "test": test})


EXAMPLES = (Digits(),)
