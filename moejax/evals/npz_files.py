"""Arrays in npz files that others may have written: pickles refused, damage said in one sentence. Source: ours."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moejax.core.errors import SpecError


def read_arrays(path: str | Path, needed: Sequence[str], *, what: str, remedy: str) -> dict[str, np.ndarray]:
    """All arrays of the file. what: the noun in errors ('samples'); remedy: how to get a good file.

    Raises SpecError when the file is missing, truncated, no npz file, holds pickled objects, or lacks one of `needed`.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"{path}: there is no such file of {what}. {remedy}")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise SpecError(f"{path} holds one bare array, not an npz file of {what}. {remedy}")
        with file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, NotImplementedError) as error:
        if isinstance(error, SpecError):
            raise
        pickled = "pickle" in str(error).lower()  # NumPy's word for it, whether the file or one array is a pickle
        reason = "it is no npz file, or holds pickled objects, which are refused" if pickled else str(error)
        raise SpecError(
            f"{path} ({path.stat().st_size} bytes) is truncated or no npz file of {what}: {reason}. {remedy}"
        ) from error
    lacking = [name for name in needed if name not in arrays]
    if lacking:
        raise SpecError(f"{path} lacks the arrays {lacking}; it holds {sorted(arrays)}. {remedy}")
    return arrays


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes them uncompressed, whole or not at all. Raises SpecError for an array of objects."""
    if objects := [name for name, array in arrays.items() if np.asarray(array).dtype.hasobject]:
        raise SpecError(f"{objects} hold objects, which no npz file of ours may: give numbers or text.")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **dict[str, Any](arrays))
    partial.replace(path)
