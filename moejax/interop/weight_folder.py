"""A folder as the Hugging Face hub keeps a model: config.json, and model.safetensors or shards of it with an index.

Tensors are read one by one when they are asked for, so that a folder may be larger than what is left of the memory.
Source: the layout of `PreTrainedModel.save_pretrained` in Hugging Face Transformers; the safetensors format.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from moejax.core.errors import SpecError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # what the hub recommends at most


class LazyTensor:
    """A tensor in a file: its shape is known, its numbers are read by `np.asarray`."""

    def __init__(self, file: Any, name: str, path: Path) -> None:
        self._file, self._name, self._path = file, name, path
        self.shape: tuple[int, ...] = tuple(file.get_slice(name).get_shape())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        try:
            tensor = self._file.get_tensor(self._name)
        except (SafetensorError, ValueError, TypeError) as error:
            raise SpecError(f"{self._path}: tensor {self._name!r} cannot be read ({error}).") from error
        return tensor if dtype is None else tensor.astype(dtype)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The fields of config.json. Raises SpecError when the folder or the file is missing or no JSON object."""
    path = _folder(folder) / CONFIG
    if not path.is_file():
        raise SpecError(
            f"{path.parent} has no {CONFIG}; give the folder that the model was saved or downloaded to, whole."
        )
    return _json_object(path)


@contextlib.contextmanager
def open_tensors(folder: str | Path) -> Iterator[dict[str, LazyTensor]]:
    """The tensors of a folder by name, to be read inside of the `with`.

    Raises SpecError for a folder without safetensors (PyTorch's .bin files are not read: they may run code), a broken file,
    an index that names a file that is missing or outside of the folder, and a shard that lacks what the index says.
    """
    folder = _folder(folder)
    shards = _shards(folder)
    with contextlib.ExitStack() as stack:
        found: dict[str, LazyTensor] = {}
        for path, wanted in shards.items():
            file = stack.enter_context(_opened(path))
            names = list(file.keys())
            absent = [name for name in wanted or () if name not in names]
            if absent:
                raise SpecError(
                    f"{path} lacks {absent[0]!r} (and {len(absent) - 1} more), which {INDEX} says is there."
                )
            found |= {name: LazyTensor(file, name, path) for name in (names if wanted is None else wanted)}
        yield found


def write_folder(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, np.ndarray]],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> list[Path]:
    """Writes config.json and the tensors, in shards with an index where they are more than `shard_bytes`; returns the files.

    Raises SpecError when the folder holds a model already, or for a shard size below 1.
    """
    folder = Path(folder).expanduser()
    if shard_bytes < 1:
        raise SpecError(f"shard_bytes={shard_bytes} must be at least 1.")
    held = sorted(path.name for path in folder.glob("*.safetensors*")) + [CONFIG] * (folder / CONFIG).exists()
    if held:
        raise SpecError(f"{folder} holds {held[0]} already; choose another folder, or empty this one.")
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Path] = []
    weight_map: dict[str, int] = {}
    total = 0
    for shard in _filled(tensors, shard_bytes):
        parts.append(folder / f"part-{len(parts)}.safetensors")
        save_file(shard, parts[-1], metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, len(parts) - 1)
        total += sum(tensor.nbytes for tensor in shard.values())
    names = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    files = [
        part.rename(folder / name) for part, name in zip(parts, names if len(parts) > 1 else [WEIGHTS], strict=True)
    ]
    if len(parts) > 1:
        index = {
            "metadata": {"total_size": total},
            "weight_map": {name: names[i] for name, i in sorted(weight_map.items())},
        }
        files.append(_write_json(folder / INDEX, index))
    return [*files, _write_json(folder / CONFIG, dict(config))]


def _folder(folder: str | Path) -> Path:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise SpecError(f"{folder} {kind}; give a folder with {CONFIG} and safetensors.")
    return folder


def _shards(folder: Path) -> dict[Path, list[str] | None]:
    """Each file with the tensors that are read from it (None: all that it holds)."""
    if (folder / INDEX).is_file():
        return _indexed(folder)
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: None}
    torch_files = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
    if torch_files:
        raise SpecError(
            f"{folder} holds {torch_files[0]}, a file of PyTorch, which may run code when it is read; take the model's safetensors, "
            "or save it again with `save_pretrained(folder, safe_serialization=True)`."
        )
    raise SpecError(f"{folder} holds neither {WEIGHTS} nor {INDEX}.")


def _indexed(folder: Path) -> dict[Path, list[str] | None]:
    index = _json_object(folder / INDEX)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise SpecError(f"{folder / INDEX} has no 'weight_map' from tensors to files.")
    shards: dict[Path, list[str] | None] = {}
    for name, file in weight_map.items():
        path = folder / file
        if Path(file).name != file or file in ("", ".", "..") or "\\" in file or path.suffix != ".safetensors":
            raise SpecError(
                f"{folder / INDEX} sends {name!r} to {file!r}; only safetensors files inside of the folder are read."
            )
        if not path.is_file():
            raise SpecError(f"{path} is missing, which {INDEX} names for {name!r}; is the download complete?")
        own = shards.setdefault(path, [])
        assert own is not None
        own.append(name)
    return shards


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, ValueError, OSError) as error:
        raise SpecError(
            f"{path} ({path.stat().st_size} bytes) is truncated or no safetensors file ({error})."
        ) from error
    with file as opened:
        yield opened


def _filled(tensors: Iterable[tuple[str, np.ndarray]], shard_bytes: int) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = np.ascontiguousarray(tensor)
        size += tensor.nbytes
    yield shard


def _json_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SpecError(f"{path} is no JSON ({error}).") from error
    if not isinstance(found, dict):
        raise SpecError(f"{path} holds a {type(found).__name__}, not an object with fields.")
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path
