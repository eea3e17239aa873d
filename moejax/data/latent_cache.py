"""Latents of pictures on disk: array_record files of Gaussian moments, their labels, and `latents.json` that says what they are.

A record is the mean [h w c], then the standard deviation [h w c], row-major, in the cache's dtype, already multiplied by
the autoencoder's scale. `latents.json` is written last: a folder without it is no cache. Source: ours.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moejax.core.errors import SpecError

FORMAT = 1
MANIFEST = "latents.json"
DTYPES = ("float16", "float32")


class CacheWriter:
    """Writes a cache into `folder`, which must hold none yet. Call `add` for batches, then `close`."""

    def __init__(
        self,
        folder: str | Path,
        *,
        shape: Sequence[int],
        class_names: Sequence[str],
        scale: float,
        dtype: str = "float16",
        about: Mapping[str, Any] | None = None,
        records_per_file: int = 16_384,
    ) -> None:
        """shape: (height, width, channels) of a latent. about: whatever else the manifest should say (JSON-able).

        Raises SpecError when the folder holds a cache already, or for an unknown dtype.
        """
        if dtype not in DTYPES:
            raise SpecError(f"dtype={dtype!r} of a latents cache must be one of {', '.join(DTYPES)}.")
        self._folder = Path(folder).expanduser()
        if (self._folder / MANIFEST).exists():
            raise SpecError(f"{self._folder} holds a latents cache already; give another folder, or remove that one.")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._shape, self._dtype, self._limit = tuple(shape), np.dtype(dtype), records_per_file
        self._head = {"scale": scale, "class_names": list(class_names), "about": dict(about or {})}
        self._labels: dict[str, list[np.ndarray]] = {}
        self._files: dict[str, list[dict[str, Any]]] = {}
        self._writer: Any = None
        self._moments = Moments(self._shape[-1])

    def add(self, split: str, mean: np.ndarray, std: np.ndarray, label: np.ndarray) -> None:
        """Appends examples [n h w c] with labels [n] to `split`; a split's batches must follow each other.

        Raises SpecError for arrays of another shape, and for values that are not finite in the cache's dtype.
        """
        if mean.shape[1:] != self._shape or std.shape != mean.shape or len(label) != len(mean):
            raise SpecError(
                f"latents must be [n, {', '.join(map(str, self._shape))}] with as many labels; found mean "
                f"{list(mean.shape)}, std {list(std.shape)}, {len(label)} labels."
            )
        with np.errstate(over="ignore"):  # told below
            pairs = np.stack([mean, std], axis=1).astype(self._dtype)
        if not np.isfinite(pairs).all():
            raise SpecError(f"latents are not finite in {self._dtype}; are the pictures and the autoencoder's weights?")
        if split not in self._files:
            self._end_file()
            self._files[split], self._labels[split] = [], []
        self._labels[split].append(np.asarray(label, np.int32))
        for pair in pairs:
            self._write(split, pair.tobytes())
        if split == "train":
            self._moments.add(pairs.astype(np.float64))

    def close(self) -> Path:
        """Finishes the files and writes the manifest; its path."""
        self._end_file()
        splits = {}
        for split, files in self._files.items():
            labels = self._folder / f"{split}-labels.npy"
            np.save(labels, np.concatenate(self._labels[split]))
            written = [entry | _facts(self._folder / entry["file"]) for entry in files]
            splits[split] = {"labels": {"file": labels.name} | _facts(labels), "records": written}
        manifest = {"format": FORMAT, "shape": list(self._shape), "dtype": self._dtype.name, **self._head}
        manifest |= {"statistics": self._moments.statistics(), "splits": splits}
        (self._folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        return self._folder / MANIFEST

    def _write(self, split: str, record: bytes) -> None:
        files = self._files[split]
        if self._writer is None or files[-1]["count"] == self._limit:
            self._end_file()
            files.append({"file": f"{split}-{len(files):05d}.array_record", "count": 0})
            self._writer = _new_file(self._folder / files[-1]["file"])
        self._writer.write(record)
        files[-1]["count"] += 1

    def _end_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


class Moments:
    """Running mean and standard deviation, per channel, of latents drawn from N(mean, std)."""

    def __init__(self, channels: int) -> None:
        self._count, self._sum, self._squares = 0, np.zeros(channels), np.zeros(channels)

    def add(self, pairs: np.ndarray) -> None:
        """Takes in mean and standard deviation [n 2 h w c]."""
        mean, std = pairs[:, 0], pairs[:, 1]
        self._count += mean[..., 0].size
        self._sum += mean.sum((0, 1, 2))
        self._squares += (mean**2 + std**2).sum((0, 1, 2))

    def statistics(self) -> dict[str, list[float]]:
        """{'mean', 'std'}, one number per channel; zeros of nothing."""
        count = max(self._count, 1)
        mean = self._sum / count
        return {"mean": mean.tolist(), "std": np.sqrt(np.maximum(self._squares / count - mean**2, 0)).tolist()}


@dataclasses.dataclass(frozen=True)
class CachedSplit:
    """A split of a cache. labels: int32 [n]. index: which of the records on disk belong to it."""

    records: Any
    labels: np.ndarray
    shape: tuple[int, int, int]
    dtype: np.dtype
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Mean and standard deviation float32 [n 2 h w c] at `index` [n]."""
        found = self.records.__getitems__([int(i) for i in self.index[index]])
        flat = np.stack([np.frombuffer(record, self.dtype) for record in found])
        return flat.reshape(len(found), 2, *self.shape).astype(np.float32)

    def take(self, index: np.ndarray) -> "CachedSplit":
        """The examples at `index`."""
        return dataclasses.replace(self, labels=self.labels[index], index=self.index[index])


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a cache. Raises SpecError that says what to run when there is none, or it is no manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        raise SpecError(
            f"{folder} holds no {MANIFEST}: write the cache with `python experiments/cache_latents.py --weights "
            f"AUTOENCODER.safetensors --data.name=... --folder {folder}`."
        )
    try:
        manifest = json.loads(path.read_text())
        kind = manifest["format"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise SpecError(f"{path} is no manifest of latents ({error!r}); write the cache again.") from error
    if kind != FORMAT:
        raise SpecError(f"{path} has format {kind}, and {FORMAT} is the one that is read; write the cache again.")
    return manifest


def open_split(folder: Path, manifest: Mapping[str, Any], split: str, *, verify: bool) -> CachedSplit:
    """A split of the cache. verify: compare checksums, not sizes alone.

    Raises SpecError naming the file that is missing, of another size, or changed since it was written.
    """
    said = manifest["splits"][split]
    for entry in (said["labels"], *said["records"]):
        _check(folder / entry["file"], entry, verify=verify)
    labels = np.load(folder / said["labels"]["file"], allow_pickle=False)
    from array_record.python import array_record_data_source  # data sets of pictures in memory do without it

    records = array_record_data_source.ArrayRecordDataSource([str(folder / entry["file"]) for entry in said["records"]])
    if len(records) != len(labels):
        raise SpecError(f"{folder}: {len(records)} latents of {split!r}, but {len(labels)} labels; write it again.")
    shape, dtype = tuple(manifest["shape"]), np.dtype(manifest["dtype"])
    return CachedSplit(records, labels, shape, dtype, np.arange(len(labels)))


def size_of(manifest: Mapping[str, Any]) -> int:
    """Bytes of all files of a cache."""
    return sum(entry["bytes"] for split in manifest["splits"].values() for entry in split["records"])


def _new_file(path: Path) -> Any:
    from array_record.python import array_record_module

    return array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check(path: Path, said: Mapping[str, Any], *, verify: bool) -> None:
    if not path.is_file():
        raise SpecError(f"{path} is missing; copy the cache again, or write it again.")
    if path.stat().st_size != said["bytes"]:
        raise SpecError(f"{path} has {path.stat().st_size} bytes, {said['bytes']} were written; copy the cache again.")
    if verify and _facts(path)["sha256"] != said["sha256"]:
        raise SpecError(f"{path} is not what was written (its sha256 differs); copy the cache again.")
