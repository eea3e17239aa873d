"""The packaged garments: sizes, balance, and files that are broken."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data import build
from moejax.data.packaged_files import PACKAGED


def test_sizes_and_classes():
    data = build("fashion_mnist_12k")
    assert data.info.split_sizes == {"train": 9000, "validation": 1000, "test": 2000}
    assert data.info.image_shape == (28, 28, 3) and data.info.class_names[0] == "T-shirt/top"
    for split in data.info.split_sizes:  # classes are about equally frequent, in what is held out too
        shares = np.bincount(data.examples(split)[1], minlength=10) / data.info.split_sizes[split]
        assert shares.min() > 0.07 and shares.max() < 0.13


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", "half"])
def test_truncated_file_is_one_clear_error(tmp_path, content):
    name = "fashion_mnist_12k.npz"
    if content == "half":
        content = (PACKAGED / name).read_bytes()[:100_000]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SpecError, match=rf"{name} \({len(content)} bytes\) is truncated"):
        build({"name": "fashion_mnist_12k", "folder": str(tmp_path)})


def test_corrupt_file_is_one_clear_error(tmp_path):
    name = "fashion_mnist_12k.npz"
    data = bytearray((PACKAGED / name).read_bytes())
    data[200_000:200_100] = bytes(100)  # inside the first array: its checksum no longer fits
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SpecError, match="truncated or no npz"):
        build({"name": "fashion_mnist_12k", "folder": str(tmp_path)})
