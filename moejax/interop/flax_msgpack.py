"""Trees of arrays in Flax's msgpack, and the extension types of google-research/vmoe's sharded checkpoints. Nothing is run.

Source: the format of `flax.serialization` (extension 1: array [shape, dtype, bytes]; 2: complex; 3: scalar), and
    google-research/vmoe `vmoe/checkpoints/serialization.py` (4: shaped array; 5: slice; 6: slice per axis; 8: index entry).
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
from flax import serialization

from moejax.core.errors import SpecError

Box = tuple[tuple[int, int], ...]
"""(start, stop) per axis."""

CHUNKS_KEY = "__msgpack_array_chunk_a87ca2__"
DTYPES = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "complex64",
        "complex128",
    ]
)
MAX_CHUNK = 2**30  # bytes of one msgpack object, as Flax has it


@dataclasses.dataclass(frozen=True)
class IndexEntry:
    """One array of a sharded checkpoint: its shape and dtype, the boxes it is cut into, and the shard of each box."""

    shape: tuple[int, ...]
    dtype: str
    boxes: tuple[Box, ...]
    shards: tuple[int, ...]


def read_msgpack(path: str | Path) -> Any:
    """What the file holds: nested dicts and lists of arrays, numbers, strings and IndexEntry.

    Raises SpecError for a file that is missing, truncated, no msgpack, or holds other types.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise SpecError(f"{path} does not exist.")
    data = path.read_bytes()
    try:
        found = msgpack.unpackb(data, ext_hook=_extension, raw=False, strict_map_key=False)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise SpecError(
            f"{path} ({len(data)} bytes) is truncated or no msgpack ({type(error).__name__}: {error})."
        ) from error
    return _whole(found)


def write_msgpack(tree: Any, path: str | Path) -> None:
    """Writes nested dicts of arrays as Flax does; the file appears only when it is complete."""
    _write(serialization.msgpack_serialize(tree), path)


def pack_index(entries: Any, shard_count: int, version: str, path: str | Path) -> None:
    """Writes an index: nested dicts of IndexEntry."""
    found = {"shard_count": shard_count, "index": _packed_entries(entries), "version": version}
    _write(msgpack.packb(found, strict_types=True), path)


def pack_shard(chunks: Mapping[int, list[tuple[np.ndarray, Box]]], path: str | Path) -> None:
    """Writes a shard: for each array's number the boxes that lie in it."""
    found: dict[str, Any] = {CHUNKS_KEY: True}
    for number, own in chunks.items():
        found[str(number)] = [[_pieces(array), msgpack.ExtType(6, _packed_box(box))] for array, box in own]
    _write(msgpack.packb(found, strict_types=True), path)


def _write(data: bytes, path: str | Path) -> None:
    path = Path(path)
    partial = path.with_name(f".tmp.{path.name}")
    partial.write_bytes(data)
    partial.replace(path)


def _pieces(array: np.ndarray) -> list[msgpack.ExtType]:
    flat = np.ascontiguousarray(array).reshape(-1)
    size = max(1, MAX_CHUNK // flat.dtype.itemsize)
    parts = [flat[i : i + size] for i in range(0, flat.size, size)]
    return [msgpack.ExtType(1, msgpack.packb((p.shape, p.dtype.name, p.tobytes()), use_bin_type=True)) for p in parts]


def _packed_entries(entries: Any) -> Any:
    if isinstance(entries, IndexEntry):
        shaped = msgpack.packb((entries.shape, entries.dtype, False, {}), use_bin_type=True)
        boxes = tuple(_packed_box(box) for box in entries.boxes)
        return msgpack.ExtType(8, msgpack.packb((shaped, boxes, entries.shards), use_bin_type=True))
    return {name: _packed_entries(child) for name, child in entries.items()}


def _packed_box(box: Box) -> bytes:
    return msgpack.packb(tuple(msgpack.packb((start, stop, None)) for start, stop in box), use_bin_type=True)


def _extension(code: int, data: bytes) -> Any:
    if code in (1, 3):
        array = _array(data)
        return array if code == 1 else array[()]
    if code == 2:
        return complex(*msgpack.unpackb(data))
    if code == 6:
        return _box(data)
    if code == 8:
        shaped, boxes, shards = msgpack.unpackb(data, raw=True)
        shape, dtype, *_ = msgpack.unpackb(shaped, raw=True)
        entry = IndexEntry(tuple(shape), _dtype_name(dtype), tuple(map(_box, boxes)), tuple(shards))
        if len(entry.boxes) != len(entry.shards):
            raise SpecError(f"an index entry has {len(entry.boxes)} slices and {len(entry.shards)} shards.")
        return entry
    raise SpecError(f"it holds the msgpack extension type {code}, which is none of Flax's arrays; it is not read.")


def _array(data: bytes) -> np.ndarray:
    shape, name, buffer = msgpack.unpackb(data, raw=True)
    dtype = jnp.dtype(_dtype_name(name))
    if math.prod(shape) * dtype.itemsize != len(buffer):
        raise SpecError(
            f"an array {list(shape)} of {dtype} has {len(buffer)} bytes, not {math.prod(shape) * dtype.itemsize}."
        )
    return np.frombuffer(buffer, dtype).reshape(shape)


def _dtype_name(name: bytes | str) -> str:
    text = name.decode() if isinstance(name, bytes) else name
    if text not in DTYPES:
        raise SpecError(f"it holds an array of dtype {text!r}; allowed are {', '.join(sorted(DTYPES))}.")
    return text


def _box(data: bytes) -> Box:
    found = []
    for part in msgpack.unpackb(data, raw=True):
        start, stop, step = msgpack.unpackb(part)
        if stop is None or step not in (None, 1):
            raise SpecError(f"a slice ({start}, {stop}, {step}) is no plain range.")
        found.append((start or 0, stop))
    return tuple(found)


def _whole(tree: Any) -> Any:
    """The tree with arrays that Flax cut because of their size put together."""
    if not isinstance(tree, dict):
        return tree
    if "__msgpack_chunked_array__" in tree:
        shape, chunks = tree["shape"], tree["chunks"]
        parts = [chunks[str(i)] for i in range(len(chunks))]
        return np.concatenate(parts).reshape([shape[str(i)] for i in range(len(shape))])
    return {name: _whole(child) for name, child in tree.items()}
