"""Reader of idx files, the format of MNIST and its kin.

Source: LeCun's description of the format: two zero bytes, type 8 (uint8), number of dimensions, big-endian uint32
sizes, then the values in C order.
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from moejax.core.errors import SpecError


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 array of exactly `shape` from an idx file, gzipped if it ends in .gz.

    Raises SpecError naming the file and the expected and found sizes when it is missing, truncated or another array.
    """
    expected = 4 + 4 * len(shape) + int(np.prod(shape))
    if not path.is_file():
        raise SpecError(f"{path} is missing; expected an idx file of {expected} bytes (uncompressed), shape {shape}.")
    data = _read(path, expected)
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise SpecError(f"{path} is no idx file of bytes: expected {expected} bytes (uncompressed), found {len(data)}.")
    dims = data[3]
    found = struct.unpack_from(f">{dims}I", data, 4) if len(data) >= 4 + 4 * dims else ()
    if found != shape or len(data) != expected:
        raise SpecError(
            f"{path} is truncated or another data set: expected shape {shape} in {expected} bytes (uncompressed), "
            f"found shape {found} in {len(data)}. Delete it and get it again."
        )
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def _read(path: Path, expected: int) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(expected + 1)  # one byte more shows a file that is too long; a bomb stays packed
    except (EOFError, OSError, zlib.error) as error:
        raise SpecError(
            f"{path} is truncated or corrupt ({error}): expected {expected} bytes after unpacking, found "
            f"{path.stat().st_size} bytes of packed data. Delete it and get it again."
        ) from error
