"""The picture files that come with the package. See `packaged/NOTICE.md` for their sources and licences."""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moejax.core.errors import SpecError

PACKAGED = Path(__file__).parent / "packaged"


def load_npz(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays `keys` of an npz file. Pickled objects are refused.

    Raises SpecError when the file is missing, is no npz file (empty, truncated, corrupt) or lacks a key.
    """
    if not path.is_file():
        raise SpecError(f"{path} is missing. Reinstall moejax, or give the folder that holds it as data.folder.")
    size = path.stat().st_size
    try:
        with np.load(path, allow_pickle=False) as file:
            lacking = [key for key in keys if key not in file.files]
            if lacking:
                raise SpecError(f"{path} lacks the arrays {lacking}; it holds {file.files}.")
            return {key: file[key] for key in keys}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(
            f"{path} ({size} bytes) is truncated or no npz file ({error}). Reinstall moejax, or copy the file again."
        ) from error


def hash_order(names: Sequence[str], *, salt: str) -> np.ndarray:
    """An order of `names` that looks random, yet depends on nothing but the names and the salt.

    Source: ours (SHA-256 of 'salt:name'; unlike a random generator it never changes between library versions).
    """
    digests = [hashlib.sha256(f"{salt}:{name}".encode()).hexdigest() for name in names]
    return np.array(sorted(range(len(names)), key=digests.__getitem__), np.int64)


def enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [n h w] -> [n h*factor w*factor] by bilinear interpolation in exact integer arithmetic.

    Pixel centres are half-integers; the border repeats.
    """
    enlarged = images.astype(np.int64)
    for axis in (1, 2):
        size = enlarged.shape[axis]
        # position of each new pixel in units of 1 / (2 factor) old pixels, relative to the first centre
        position = np.clip(2 * np.arange(size * factor) + 1 - factor, 0, 2 * factor * (size - 1))
        low, rest = np.divmod(position, 2 * factor)
        high = np.minimum(low + 1, size - 1)
        shape = [-1 if a == axis else 1 for a in range(3)]
        weight = rest.reshape(shape)
        enlarged = enlarged.take(low, axis) * (2 * factor - weight) + enlarged.take(high, axis) * weight
    return ((enlarged + 2 * factor * factor) // (4 * factor * factor)).astype(np.uint8)
