"""Which rows of which group each step of a kernel works on, computed where sizes are only known when the program runs.

An item is a tile of rows and a group with rows in it. A tile on the border of groups has one item for each of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

from moejax_kernels.tpu_memory import LANES


class Items(NamedTuple):
    """Vectors over items, int32. Items from counts[1] on repeat the last one: they move no block and must do nothing.

    counts: [2] items that multiply, items in all. group, read: the kernel and the tile of rows an item reads.
    tile: the tile of rows it stores (sum_of_outer: as read). start, end: rows of its group.
    """

    counts: Array
    group: Array
    read: Array
    tile: Array
    start: Array
    end: Array


def product_items(group_sizes: Array, rows: int, tile_rows: int) -> Items:
    """Items by row: groups in order, then the rows after the last group, whose items read nothing new and store zeros.

    At most (tiles of rows) + E items. Source: ours.
    """
    groups, tiles = group_sizes.shape[0], -(-rows // tile_rows)
    ends = jnp.append(jnp.cumsum(group_sizes, dtype=jnp.int32), jnp.int32(rows))
    starts = jnp.concatenate([jnp.zeros((1,), jnp.int32), ends[:-1]])
    owner, tile, active, first = _spread(starts, ends, tile_rows, tiles + groups, at_least=0)
    multiplying = first[groups]
    last = jnp.maximum(multiplying - 1, 0)
    reads = jnp.minimum(jnp.arange(tiles + groups, dtype=jnp.int32), last)
    return Items(
        counts=jnp.stack([multiplying, active]),
        group=jnp.minimum(owner[reads], groups - 1),
        read=tile[reads],
        tile=tile,
        start=starts[owner],
        end=ends[owner],
    )


def outer_items(group_sizes: Array, rows: int, tile_rows: int) -> Items:
    """Items by group: every tile of rows it touches, and one that multiplies nothing for an empty group.

    At most (tiles of rows) + E - 1 items, and E. Source: ours.
    """
    groups, tiles = group_sizes.shape[0], -(-rows // tile_rows)
    ends = jnp.cumsum(group_sizes, dtype=jnp.int32)
    starts = ends - group_sizes.astype(jnp.int32)
    owner, tile, active, _ = _spread(starts, ends, tile_rows, tiles + groups - 1, at_least=1)
    tile = jnp.minimum(tile, tiles - 1)
    return Items(jnp.stack([active, active]), owner, tile, tile, starts[owner], ends[owner])


def _spread(
    starts: Array, ends: Array, tile_rows: int, length: int, *, at_least: int
) -> tuple[Array, Array, Array, Array]:
    """Group and tile of each item, number of items, first item of each group; items past the number repeat the last."""
    first_tile = starts // tile_rows
    touched = jnp.where(ends > starts, (ends - 1) // tile_rows - first_tile + 1, at_least)
    until = jnp.cumsum(touched, dtype=jnp.int32)
    active = until[-1]
    item = jnp.minimum(jnp.arange(length, dtype=jnp.int32), active - 1)
    owner = jnp.searchsorted(until, item, side="right").astype(jnp.int32)
    first = until - touched
    return owner, first_tile[owner] + item - first[owner], active, first


def rows_in_tile(items: Items, i: Array, tile_rows: int) -> tuple[Array, Array]:
    """First row of item i in its tile, and the row after its last; equal when it has none. For use inside a kernel."""
    first = items.tile[i] * tile_rows
    low = jnp.clip(items.start[i] - first, 0, tile_rows)
    return low, jnp.maximum(low, jnp.clip(items.end[i] - first, 0, tile_rows))


def mine(start: Any, rows: int, low: Array, high: Array) -> Array:
    """Which of the rows start .. start + rows of a tile lie in low .. high: [rows 1]."""
    row = start + lax.broadcasted_iota(jnp.int32, (rows, 1), 0)
    return (row >= low) & (row < high)


def over_pieces(
    do: Callable[[Any, int, bool], None], low: Array, high: Array, rows: int, *, body: int, piece: int, when: Array
) -> None:
    """do(start, rows, whole) over the rows low .. high of a tile of `rows`, in bodies or, where bodies are larger, in pieces.

    A tile that the item has to itself goes in bodies. Of another only the pieces that its rows reach into are done.
    """
    if body <= piece:
        return pl.when(when & (high > low))(lambda: _loop(do, low // body, (high + body - 1) // body, body, False))
    whole = (low == 0) & (high == rows)
    pl.when(when & whole)(lambda: _loop(do, 0, rows // body, body, True))
    partly = when & jnp.logical_not(whole) & (high > low)
    pl.when(partly)(lambda: _loop(do, low // piece, (high + piece - 1) // piece, piece, False))


def over_chunks(do: Callable[[Any, int], None], size: int, chunk: int) -> None:
    """do(start, size of chunk) over an axis of lanes: equal chunks of whole lanes, and what is left.

    A loop, not one large product: what a chunk keeps of its operands fits in registers.
    """
    chunk = min(chunk, size)
    count = -(-size // chunk)
    if size % (count * LANES) == 0:
        chunk = size // count
    count = size // chunk
    if count == 1:
        do(0, chunk)
    else:
        lax.fori_loop(0, count, lambda c, carry: do(pl.multiple_of(c * chunk, chunk), chunk), None)
    if size % chunk:
        do(count * chunk, size % chunk)


def inside(block: Array, axis: int, first: Any, length: int) -> Array:
    """The block, which begins at `first` of an axis, with what lies past the axis' length set to zero."""
    index = first + lax.broadcasted_iota(jnp.int32, block.shape, axis)
    return only(index < length, block)


def only(wanted: Array, block: Array) -> Array:
    """The block where wanted, else zero. By way of float32: masks of 16-bit registers are not known to every chip."""
    return jnp.where(wanted, block.astype(jnp.float32), jnp.zeros((), jnp.float32)).astype(block.dtype)


def _loop(do: Callable[[Any, int, bool], None], first: Any, after: Any, rows: int, whole: bool) -> None:
    def step(p: Array, carry: None) -> None:
        do(pl.multiple_of(p * rows, rows), rows, whole)

    lax.fori_loop(first, after, step, None)
