"""Input sources, preprocessing, augmentation, and iterators whose position can be saved. One data set is one file."""

from moejax.data.dataset import ArraySplit, Dataset, DatasetInfo, Opened, Source
from moejax.data.opening import build

__all__ = ["ArraySplit", "Dataset", "DatasetInfo", "Opened", "Source", "build"]
