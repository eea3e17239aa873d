"""Features and moments of real pictures, kept in a file so that they are extracted once. Source: ours."""

import dataclasses
import functools
import hashlib
import re
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from moejax.core.errors import SpecError
from moejax.evals.feature_extractors import Extracted, Extractor, extract
from moejax.evals.frechet import Moments, moments
from moejax.evals.npz_files import read_arrays, write_arrays

FORMAT = "moejax reference statistics, version 1"
_ARRAYS = (
    "format",
    "name",
    "fingerprint",
    "pictures",
    "features",
    "label",
    "predicted",
    "mean",
    "covariance",
    "checksum",
)
_REMEDY = "Delete it; it is written again from the pictures."


@dataclasses.dataclass(frozen=True)
class ReferenceStatistics:
    """Real pictures as an extractor sees them.

    label: their classes. fingerprint: the extractor's. pictures: SHA-256 of pictures and labels. name: for tables.
    """

    extracted: Extracted
    label: Int[np.ndarray, " M"]
    fingerprint: str
    pictures: str
    name: str

    @functools.cached_property
    def moments(self) -> Moments:
        """Mean and covariance of the features; see `frechet.moments` for errors."""
        return moments(self.extracted.features)

    def __len__(self) -> int:
        return len(self.extracted)

    def check(self, extractor: Extractor) -> None:
        """Raises SpecError when the features are not the extractor's."""
        if self.fingerprint != extractor.fingerprint:
            raise SpecError(
                f"the reference {self.name!r} was made with an extractor {self.fingerprint[:12]}, the samples' features "
                f"come from {extractor.name} {extractor.fingerprint[:12]} (weights or preprocessing differ); distances "
                "between them mean nothing. Give the pictures of the reference, or the extractor that it was made with."
            )

    def divide(self, count: int, *, seed: int) -> tuple["ReferenceStatistics", "ReferenceStatistics"]:
        """(the rest, `count` pictures chosen at random). Raises SpecError when nothing would be left."""
        if not 0 < count < len(self):
            raise SpecError(f"{count} of the {len(self)} pictures of {self.name} cannot be held out.")
        order = np.random.default_rng(seed).permutation(len(self))
        return self._take(order[count:], "rest"), self._take(order[:count], "held out")

    def _take(self, index: np.ndarray, what: str) -> "ReferenceStatistics":
        return dataclasses.replace(
            self, extracted=self.extracted.take(index), label=self.label[index], name=f"{self.name} ({what})"
        )


def make_reference(
    extractor: Extractor,
    images: UInt8[np.ndarray, "M height width channels"],
    label: Int[np.ndarray, " M"],
    *,
    name: str,
) -> ReferenceStatistics:
    """Extracts the features of real pictures."""
    found = extract(extractor, images)
    return ReferenceStatistics(found, label.astype(np.int32), extractor.fingerprint, _digest(images, label), name)


def cached_reference(
    extractor: Extractor,
    images: UInt8[np.ndarray, "M height width channels"],
    label: Int[np.ndarray, " M"],
    *,
    name: str,
    folder: str | Path,
) -> ReferenceStatistics:
    """`make_reference`, read from `folder` where it lies there of the same pictures and the same extractor.

    Raises SpecError for a file there that is damaged.
    """
    digest = _digest(images, label)
    plain = re.sub(r"[^\w.-]+", "_", name)
    path = Path(folder) / f"{plain}_{digest[:12]}_{extractor.name}_{extractor.fingerprint[:12]}.npz"
    if path.exists():
        found = read_reference(path)
        if (found.pictures, found.fingerprint) == (digest, extractor.fingerprint):
            return found
    made = make_reference(extractor, images, label, name=name)
    write_reference(path, made)
    return made


def write_reference(path: str | Path, reference: ReferenceStatistics) -> None:
    """Writes what `read_reference` reads: features, moments, fingerprint, and a checksum over all of it."""
    predicted = reference.extracted.predicted
    arrays = {
        "format": np.array(FORMAT),
        "name": np.array(reference.name),
        "fingerprint": np.array(reference.fingerprint),
        "pictures": np.array(reference.pictures),
        "features": reference.extracted.features,
        "label": reference.label,
        "predicted": np.zeros(0, np.int32) if predicted is None else predicted,
        "mean": reference.moments.mean,
        "covariance": reference.moments.covariance,
    }
    write_arrays(path, {**arrays, "checksum": np.array(_checksum(arrays))})


def read_reference(path: str | Path) -> ReferenceStatistics:
    """Raises SpecError for a file that is missing, truncated, pickled, of another format, or whose contents changed."""
    arrays = read_arrays(path, _ARRAYS, what="reference statistics", remedy=_REMEDY)
    if str(arrays["format"]) != FORMAT:
        raise SpecError(f"{path} holds {str(arrays['format'])!r}, not {FORMAT!r}. {_REMEDY}")
    if str(arrays.pop("checksum")) != _checksum(arrays):
        raise SpecError(f"{path} is damaged: its arrays are not those that were written. {_REMEDY}")
    features, predicted = arrays["features"], arrays["predicted"]
    reference = ReferenceStatistics(
        Extracted(features, predicted if predicted.size else None),
        arrays["label"], str(arrays["fingerprint"]), str(arrays["pictures"]), str(arrays["name"]),
    )  # fmt: skip
    # The file's moments: what `moments` would compute again.
    reference.__dict__["moments"] = Moments(arrays["mean"], arrays["covariance"], len(features))
    return reference


def _digest(images: np.ndarray, label: np.ndarray) -> str:
    digest = hashlib.sha256(f"{images.dtype}{images.shape}".encode())
    digest.update(np.ascontiguousarray(images).tobytes())
    digest.update(np.ascontiguousarray(label, np.int32).tobytes())
    return digest.hexdigest()


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
