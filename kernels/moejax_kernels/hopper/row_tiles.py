"""Which rows each block multiplies: tiles of a group, cut where its rows begin and end."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

ALIGNED = 8  # rows: what the copy engine lays out together in shared memory, so tiles begin at a multiple of it
GROUP, PLACE, SKIP, COUNT = range(4)


def most_tiles(rows: int, groups: int, tile: int) -> int:
    """How many tiles `groups` groups of `rows` rows in all can need, the rows that are left over counted as one group more."""
    return (rows + (groups + 1) * (tile + ALIGNED - 2)) // tile


def row_tiles(group_sizes: Int[Array, "E"], rows: int, tile: int) -> Int[Array, "4 T"]:
    """For each tile its group, where it begins (in units of 8 rows), how many rows to skip there, and how many to write.

    Rows after the last group form group E, so that every row of an output is written by exactly one tile. A tile begins at
    a multiple of 8 rows and skips those of the group before. Unused tiles write 0 rows.
    Source: ours (a tile list in memory, as this backend has no scalar prefetch).
    """
    groups = group_sizes.shape[0]
    left = rows - jnp.sum(group_sizes, keepdims=True, dtype=jnp.int32)
    sizes = jnp.concatenate([group_sizes.astype(jnp.int32), left])
    stops = jnp.cumsum(sizes, dtype=jnp.int32)
    starts = stops - sizes
    aligned = starts // ALIGNED * ALIGNED
    tiles = jnp.where(sizes > 0, -(-(stops - aligned) // tile), 0)
    tile_stops = jnp.cumsum(tiles, dtype=jnp.int32)
    place = jnp.arange(most_tiles(rows, groups, tile), dtype=jnp.int32)
    group = jnp.minimum(jnp.searchsorted(tile_stops, place, side="right").astype(jnp.int32), groups)
    load = aligned[group] + (place - tile_stops[group] + tiles[group]) * tile
    first = jnp.maximum(load, starts[group])
    count = jnp.maximum(jnp.minimum(load + tile, stops[group]) - first, 0)
    used = place < tile_stops[-1]
    return jnp.where(used, jnp.stack([group, load // ALIGNED, first - load, count]), 0)


def banded(block: Any, row_tiles: int, columns: int, band: int) -> tuple[jax.Array, jax.Array]:
    """(row tile, column tile) of a block: bands of `band` columns, inside a band row tile by row tile.

    Blocks that run at one time then share rows of x and columns of w in the level-2 cache. Source: ours.
    """
    at = lax.div(block, jnp.int32(row_tiles * band))
    within = block - at * (row_tiles * band)
    width = lax.min(columns - at * band, jnp.int32(band))
    row = lax.div(within, width)
    return row, at * band + within - row * width
