"""Arrays by name in an npz file, read without running anything.

Source: NumPy's npz, `numpy.load(allow_pickle=False)`; bfloat16, which it knows as two raw bytes, is told from the name 'V2'.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Every array of a local file. Raises SpecError when it is missing, broken, no npz, or holds objects."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise SpecError(f"{path} does not exist; give the path of an npz file.")
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise SpecError(f"{path} holds a single array, no npz of named ones.")
        with opened as file:
            return {name: _array(file[name]) for name in file.files}
    except SpecError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        reason = (
            "holds Python objects, which are never run" if "pickle" in str(error) else "is truncated or no npz file"
        )
        raise SpecError(f"{path} ({path.stat().st_size} bytes) {reason} ({type(error).__name__}).") from error


def write_npz(arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Writes an npz; it appears only when it is complete."""
    path = Path(path)
    partial = path.with_name(f".tmp.{path.name}")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)


def _array(array: np.ndarray) -> np.ndarray:
    return array.view(jnp.bfloat16) if array.dtype == np.dtype("V2") else array
