"""Fingerprints of arrays that lie in parts on many devices and processes.

Every element is hashed with its place, and the hashes are summed: the sum does not depend on how the array is cut, each
process adds up its own parts alone, and any single changed element changes it.
Source: ours; the hash is the finaliser of MurmurHash3 (Appleby 2011), 64 bits.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from moejax.sharding.processes import summed

_PIECE = 2**18  # elements hashed at a time, so that the intermediate arrays stay in the cache
_PLACES = np.uint64(0x9E3779B97F4A7C15)


def fingerprints(leaves: Sequence[Any]) -> list[str]:
    """One of every array, 16 hexadecimal digits; the same for a numpy array and for any sharding of it.

    With several processes all must call it with their views of the same arrays; arrays of numpy count in the first alone.
    """
    sums = np.array([_own_sum(leaf) for leaf in leaves], np.uint64)
    return [f"{int(value):016x}" for value in summed(sums)]


def _own_sum(leaf: Any) -> np.uint64:
    """The sum over the parts that no other process adds up too."""
    if not isinstance(leaf, jax.Array):
        whole = jax.process_index() == 0
        return _part_sum(np.asarray(leaf), (0,) * np.ndim(leaf), np.shape(leaf)) if whole else np.uint64(0)
    total = np.uint64(0)
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            starts = tuple(index.indices(size)[0] for index, size in zip(shard.index, leaf.shape, strict=True))
            total = _add(total, _part_sum(np.asarray(shard.data), starts, leaf.shape))
    return total


def _part_sum(part: np.ndarray, starts: Sequence[int], shape: Sequence[int]) -> np.uint64:
    """The sum over a part of an array of `shape` that begins at `starts`."""
    if part.size == 0:
        return np.uint64(0)
    words = _words(part).reshape(math.prod(part.shape[:-1]), -1)
    rows, width = words.shape
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first = np.zeros((1,), np.uint64)
    for size, start, stride in list(zip(part.shape, starts, strides, strict=True))[:-1]:
        steps = (np.arange(size, dtype=np.uint64) + np.uint64(start)) * np.uint64(stride)
        first = (first[:, None] + steps).reshape(-1)
    across = np.arange(width, dtype=np.uint64) + np.uint64(starts[-1] if starts else 0)
    total = np.uint64(0)
    for row in range(0, rows, max(1, _PIECE // max(width, 1))):
        there = slice(row, row + max(1, _PIECE // max(width, 1)))
        total = _add(total, np.sum(_hashed(words[there], first[there, None] + across), dtype=np.uint64))
    return total


def _hashed(words: np.ndarray, places: np.ndarray) -> np.ndarray:
    """One-to-one in the word for every place."""
    mixed = words ^ (places * _PLACES)
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        mixed ^= mixed >> np.uint64(33)
        mixed *= factor
    return mixed ^ (mixed >> np.uint64(33))


def _words(part: np.ndarray) -> np.ndarray:
    """The bits of every element as uint64."""
    part = np.ascontiguousarray(part)
    return part.view(f"u{part.dtype.itemsize}").astype(np.uint64)


def _add(a: np.uint64, b: np.uint64) -> np.uint64:
    return np.uint64((int(a) + int(b)) % 2**64)
