"""Colour pictograms: 4,485 drawings of 1,687 concepts, 32x32, in 9 categories and 3 drawing styles.

Source: the Noto (Google, Apache-2.0) and Fluent (Microsoft, MIT) pictogram sets, rasterised; see packaged/NOTICE.md.
A concept (its caption) lies in one split only, with all its drawings: the test asks for concepts never seen. A few
concepts share a drawing; pictures that also occur in test are left out of the others, those of validation of train.
"""

import dataclasses
from pathlib import Path

import numpy as np

from moejax.data.dataset import ArraySplit, Opened
from moejax.data.packaged_files import PACKAGED, hash_order, load_npz

FILE = "emoji32_apache_mit.npz"
TEST_CONCEPTS, VALIDATION_CONCEPTS = 250, 120


@dataclasses.dataclass(frozen=True, kw_only=True)
class Emoji32:
    """folder: where the file lies, if not in the package."""

    folder: str | None = None

    def open(self) -> Opened:
        """Splits of 1,317, 120 and 250 concepts; attributes 'caption' and 'style'."""
        data = load_npz(Path(self.folder or PACKAGED) / FILE, ("x", "y", "cats", "caption", "style"))
        whole = ArraySplit(data["x"], data["y"].astype(np.int32), {"caption": data["caption"], "style": data["style"]})
        concepts = np.unique(data["caption"])
        rank = np.empty(len(concepts), np.int64)
        rank[hash_order(concepts.tolist(), salt="emoji32")] = np.arange(len(concepts))
        rank_of_picture = rank[np.searchsorted(concepts, data["caption"])]
        bounds = {
            "train": (TEST_CONCEPTS + VALIDATION_CONCEPTS, len(concepts)),
            "validation": (TEST_CONCEPTS, TEST_CONCEPTS + VALIDATION_CONCEPTS),
            "test": (0, TEST_CONCEPTS),
        }
        splits = {}
        seen: set[bytes] = set()
        for name in ("test", "validation", "train"):
            low, high = bounds[name]
            index = np.flatnonzero((rank_of_picture >= low) & (rank_of_picture < high))
            splits[name] = whole.take(np.array([i for i in index if whole.images[i].tobytes() not in seen], np.int64))
            seen |= {image.tobytes() for image in splits[name].images}
        return Opened(class_names=tuple(data["cats"].tolist()), splits=splits)


EXAMPLES = (Emoji32(),)
