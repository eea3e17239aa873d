"""Files of generated pictures: npz with 'samples' uint8 [n h w c], 'label' int32 [n], and whatever describes them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from moejax.core.errors import SpecError
from moejax.evals.npz_files import read_arrays, write_arrays

_REMEDY = "Write it again with experiments/sample.py."


@dataclasses.dataclass(frozen=True)
class SampleFile:
    """Pictures with the classes that were asked for. metadata: the other arrays of the file."""

    samples: UInt8[np.ndarray, "M height width channels"]
    label: Int[np.ndarray, " M"]
    metadata: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)


def read_samples(path: str | Path) -> SampleFile:
    """Reads one file. Raises SpecError when it is missing, truncated, pickled, or its arrays are not what they must be.

    Source: ours.
    """
    arrays = read_arrays(path, ("samples", "label"), what="samples", remedy=_REMEDY)
    samples, label = arrays.pop("samples"), arrays.pop("label")
    if samples.dtype != np.uint8 or samples.ndim != 4 or samples.shape[-1] not in (1, 3):
        raise SpecError(
            f"{path}: 'samples' is {samples.dtype}{list(samples.shape)}; it must be uint8 [n height width 1 or 3]. "
            "Pictures in [-1, 1] become bytes as round(127.5 (x + 1))."
        )
    if not np.issubdtype(label.dtype, np.integer) or label.shape != samples.shape[:1]:
        raise SpecError(
            f"{path}: 'label' is {label.dtype}{list(label.shape)}; it must hold one integer for each of the "
            f"{len(samples)} pictures."
        )
    if not len(samples):
        raise SpecError(f"{path} holds no pictures. {_REMEDY}")
    return SampleFile(samples, label.astype(np.int32), arrays)


def write_samples(path: str | Path, file: SampleFile) -> None:
    """Writes what `read_samples` reads."""
    write_arrays(path, {"samples": file.samples, "label": file.label.astype(np.int32), **file.metadata})
