"""Digits: enlarged exactly, and divided as stated."""

import numpy as np

from moejax.data import build
from moejax.data.packaged_files import enlarge


def test_sizes_and_values():
    data = build({"name": "digits", "channels": 1})
    assert data.info.split_sizes == {"train": 1257, "validation": 180, "test": 360}
    images, labels = data.examples("train")
    assert images.shape[1:] == (32, 32, 1) and (images.min(), images.max()) == (0, 255)
    assert sorted(set(labels.tolist())) == list(range(10))


def test_enlarge_by_hand():
    # one row 0, 80, factor 2: new centres lie at old positions -1/4, 1/4, 3/4, 5/4 (the border repeats)
    # -> 0, 80 * 1/4 = 20, 80 * 3/4 = 60, 80
    row = np.array([[[0, 80]]], np.uint8)
    np.testing.assert_array_equal(enlarge(row, 2)[0], [[0, 20, 60, 80], [0, 20, 60, 80]])
