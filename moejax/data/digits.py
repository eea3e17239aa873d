"""Handwritten digits: 1,797 pictures of 8x8, enlarged to 32x32, in 10 classes.

Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI, CC-BY-4.0), as it comes with
scikit-learn. Deviations: enlarged bilinearly; 360 pictures are test and 180 validation.
"""

import dataclasses
import importlib.util
from pathlib import Path

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
        values, labels = _table()
        grey = (values.reshape(-1, 8, 8) * 255 + 8) // 16  # 0..16 -> 0..255
        whole = ArraySplit(enlarge(grey.astype(np.uint8), 4)[..., None], labels.astype(np.int32))
        rest, test = hold_out(whole, 360, salt="digits test")
        train, validation = hold_out(rest, 180, salt="digits validation")
        return Opened(class_names=DIGITS, splits={"train": train, "validation": validation, "test": test})


def _table() -> tuple[np.ndarray, np.ndarray]:
    """int64 [n 64] of grey values from 0 to 16, and labels [n]."""
    found = importlib.util.find_spec("sklearn")
    folder = Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else Path()
    file = folder / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():  # read without importing scikit-learn, which would take as long as all else that a run imports
        table = np.loadtxt(file, delimiter=",").astype(np.int64)
        return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.data.astype(np.int64), data.target


EXAMPLES = (Digits(),)
