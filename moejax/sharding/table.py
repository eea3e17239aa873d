"""What lies where: every leaf with its shape, its split and its bytes on one device.

Source: ours.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from moejax.core.tree import flatten


class Placed(NamedTuple):
    """One leaf. split: its partition spec as text, 'whole' without one. bytes_per_device: of the largest part."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    split: str
    bytes_per_device: int


def placed(tree: Any, shardings: Any) -> list[Placed]:
    """One row per leaf. tree: arrays or shapes; shardings: a tree of NamedShardings like it."""
    where = flatten(shardings)
    return [_row(name, leaf, where[name]) for name, leaf in flatten(tree).items()]


def table(rows: list[Placed]) -> str:
    """The rows as aligned text, and their sum."""
    cells = [("leaf", "shape", "split over", "bytes per device")]
    cells += [
        (row.name, f"{row.dtype}[{','.join(map(str, row.shape))}]", row.split, f"{row.bytes_per_device:,}")
        for row in rows
    ]
    cells.append(("sum", "", "", f"{sum(row.bytes_per_device for row in rows):,}"))
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = [
        "  ".join(
            cell.rjust(w) if i == 3 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(lines)


def _row(name: str, leaf: Any, sharding: NamedSharding) -> Placed:
    shape = tuple(leaf.shape)
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        size, dtype = 8, "key"  # of threefry, the default
    else:
        size, dtype = np.dtype(leaf.dtype).itemsize, np.dtype(leaf.dtype).name
    split = [str(entry) if isinstance(entry, str) else "+".join(entry) if entry else "-" for entry in sharding.spec]
    count = math.prod(sharding.shard_shape(shape))
    return Placed(name, shape, dtype, ", ".join(split) or "whole", size * count)
