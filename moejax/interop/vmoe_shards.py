"""google-research/vmoe's sharded checkpoints: PREFIX.index tells the arrays and their slices, PREFIX.data-00000-of-00004 ... hold them.

Arrays are numbered in the order of the sorted names of the nested dicts. Source: google-research/vmoe
`vmoe/checkpoints/partitioned.py` (version '20220622'; files without a version are the same where the tree was plain dicts).
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError
from moejax.interop.flax_msgpack import CHUNKS_KEY, Box, IndexEntry, pack_index, pack_shard, read_msgpack

VERSION = "20220622"
Chunks = Mapping[int, list[tuple[np.ndarray, Box]]]


def is_sharded(path: str | Path) -> bool:
    """Whether `path` names a sharded checkpoint: its prefix, or its index."""
    return Path(f"{prefix_of(path)}.index").expanduser().is_file()


def prefix_of(path: str | Path) -> str:
    """The prefix, of itself or of the index file."""
    return str(path).removesuffix(".index")


def read_shards(path: str | Path, keep: Callable[[str], bool]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays whose name ('params/head/kernel') `keep` accepts, and the names of the others.

    Raises SpecError for an index or shard that is missing or broken, an unknown version, and an array whose slices are not
    in the shard that the index says, have another size, overlap, or leave a part out.
    """
    prefix = prefix_of(path)
    index = read_msgpack(f"{prefix}.index")
    if not isinstance(index, dict) or "index" not in index or "shard_count" not in index:
        raise SpecError(f"{prefix}.index is no index of a checkpoint: it needs 'index' and 'shard_count'.")
    if index.get("version", VERSION) != VERSION:
        raise SpecError(f"{prefix}.index has version {index['version']!r}; {VERSION!r} is the one that is known.")
    entries = list(_entries(index["index"], ""))
    names = [name for name, _ in entries]
    files = [shard_file(prefix, i, index["shard_count"]) for i in range(index["shard_count"])]
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise SpecError(f"{len(absent)} of {len(files)} shards are missing: {', '.join(absent[:4])}.")
    wanted = {i: (name, entry) for i, (name, entry) in enumerate(entries) if keep(name)}
    arrays = {}
    for number, (name, entry) in wanted.items():
        _check_boxes(name, entry, len(files))
        arrays[number] = np.empty(entry.shape, jnp.dtype(entry.dtype))
    for shard, file in enumerate(files):
        own = {i: item for i, item in wanted.items() if shard in item[1].shards}
        if own:
            _fill(arrays, own, shard, file)
    return {names[i]: array for i, array in arrays.items()}, [n for n in names if not keep(n)]


def write_shards(tree: Mapping[str, Any], path: str | Path, *, num_shards: int) -> None:
    """Writes nested dicts of arrays; banks of experts ('.../Moe/Mlp/...') are cut along their experts, one part per shard.

    Raises SpecError for less than one shard.
    """
    if num_shards < 1:
        raise SpecError(f"num_shards={num_shards} must be at least 1.")
    prefix = prefix_of(path)
    shards: list[dict[int, list[tuple[np.ndarray, Box]]]] = [{} for _ in range(num_shards)]
    leaves = list(_leaves(tree, ""))
    entries: dict[str, Any] = {}
    for number, (name, leaf) in enumerate(leaves):
        array = np.asarray(leaf)
        cuts = num_shards if "/Moe/Mlp/" in name and array.shape[0] % num_shards == 0 else 1
        boxes, own = [], []
        for part in range(cuts):
            size = array.shape[0] // cuts if array.ndim else 0
            box: Box = tuple((0, n) for n in array.shape)
            box = ((part * size, (part + 1) * size), *box[1:]) if array.ndim else box
            shard = part if cuts > 1 else number % num_shards
            shards[shard].setdefault(number, []).append((np.asarray(array[_slices(box)]), box))
            boxes.append(box)
            own.append(shard)
        *folders, last = name.split("/")
        node = entries
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = IndexEntry(array.shape, array.dtype.name, tuple(boxes), tuple(own))
    for i, chunks in enumerate(shards):
        pack_shard(chunks, shard_file(prefix, i, num_shards))
    pack_index(entries, num_shards, VERSION, f"{prefix}.index")


def shard_file(prefix: str, shard: int, count: int) -> Path:
    """The file of one shard."""
    return Path(f"{prefix}.data-{shard:05d}-of-{count:05d}").expanduser()


def _fill(arrays: Mapping[int, np.ndarray], own: Mapping[int, tuple[str, IndexEntry]], shard: int, file: Path) -> None:
    chunks = read_msgpack(file)
    if not isinstance(chunks, dict) or CHUNKS_KEY not in chunks:
        raise SpecError(f"{file} holds no slices of arrays; is it a shard of this checkpoint?")
    for number, (name, entry) in own.items():
        found = {box: pieces for pieces, box in chunks.get(str(number), [])}
        for box in (b for b, s in zip(entry.boxes, entry.shards, strict=True) if s == shard):
            if box not in found:
                raise SpecError(
                    f"{file} lacks the slice {list(box)} of {name}, which the index says is there; index and shards are not of one "
                    "checkpoint, or the tree that was saved was not of plain dicts."
                )
            flat = np.concatenate(found[box]) if found[box] else np.empty(0, entry.dtype)
            shape = [stop - start for start, stop in box]
            if flat.size != math.prod(shape) or flat.dtype != arrays[number].dtype:
                raise SpecError(f"{file}: slice {list(box)} of {name} has {flat.size} numbers of {flat.dtype}, the index says "
                                f"{math.prod(shape)} of {entry.dtype}.")  # fmt: skip
            arrays[number][_slices(box)] = flat.reshape(shape)


def _check_boxes(name: str, entry: IndexEntry, shard_count: int) -> None:
    """Raises SpecError unless the boxes make up the array, each number once."""
    inside = all(
        len(box) == len(entry.shape) and all(0 <= a < b <= n for (a, b), n in zip(box, entry.shape, strict=True))
        for box in entry.boxes
    )
    if not inside or not all(0 <= shard < shard_count for shard in entry.shards):
        raise SpecError(f"the index of {name} {list(entry.shape)} names slices or shards that do not exist.")
    covered = sum(math.prod(stop - start for start, stop in box) for box in entry.boxes)
    apart = all(
        any(a[1] <= b[0] or b[1] <= a[0] for a, b in zip(one, other, strict=True))
        for i, one in enumerate(entry.boxes)
        for other in entry.boxes[:i]
    )
    if covered != math.prod(entry.shape) or not apart:
        raise SpecError(f"the slices of {name} in the index do not make up its {list(entry.shape)} numbers once each.")


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _entries(tree: Any, path: str) -> Any:
    for name, leaf in _leaves(tree, path):
        if not isinstance(leaf, IndexEntry):
            raise SpecError(f"the index holds a {type(leaf).__name__} at {name!r}, not an array's entry.")
        yield name, leaf


def _leaves(tree: Any, path: str) -> Any:
    if isinstance(tree, Mapping):
        for key in sorted(tree):
            yield from _leaves(tree[key], f"{path}/{key}" if path else str(key))
    elif tree is not None:
        yield path, tree
