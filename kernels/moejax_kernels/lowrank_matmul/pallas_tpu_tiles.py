"""Tiles of the low-rank kernels on TPU: as large as the chip's vector memory allows, or the caller's, checked."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from moejax_kernels import tpu_memory
from moejax_kernels.platforms import target


class Tiles(NamedTuple):
    """rows of x, its depth D, the hidden width, columns of the output in one step; rows and depth of one product; bytes needed.

    piece divides rows: of a tile that groups share, only the pieces that an item reaches into are multiplied.
    """

    rows: int
    depth: int
    hidden: int
    columns: int
    piece: int
    chunk: int
    vmem: int


def choose(
    sizes: tuple[int, int, int, int, int],
    ranks: tuple[int, ...],
    dtypes: tuple[Any, Any],
    tiling: tuple[int, ...] | None,
) -> Tiles:
    """Tiles for rows, depth, hidden (0: none), columns and groups; ranks of the inputs and of the output.

    Raises ValueError for a tiling that breaks register tiles or needs more vector memory than the chip has.
    Source: ours.
    """
    held = tpu_memory.chip(target())
    rows, depth, hidden, columns, groups = sizes
    operand, out = (jnp.dtype(d) for d in dtypes)
    piece, chunk = held.body("lowrank", operand)
    whole = (tpu_memory.round_up(rows, tpu_memory.sublanes(operand)), depth, max(hidden, 1), columns)

    def need(tiles: tuple[int, ...]) -> int:
        return _bytes(tiles, columns, hidden, ranks, operand, out, min(piece, tiles[0]))

    if tiling is not None:
        tiles = _given(tiling, whole, operand)
    else:
        even = 1 << max(0, (-(-rows // groups)) - 1).bit_length()
        largest = held.largest("lowrank", operand)
        wanted = (max(tpu_memory.LANES, min(largest[0], even)), *largest[1:])
        tiles = (min(wanted[0], whole[0]), *(tpu_memory.tile_of(s, t) for s, t in zip(whole[1:], wanted[1:])))
        tiles = tpu_memory.shrunk(tiles, need, held)
    vmem = tpu_memory.check_fits("low-rank product", tiles, need, held)
    rows, depth, hidden, columns = tiles
    return Tiles(rows, depth, hidden, columns, piece if rows % piece == 0 else rows, chunk, vmem)


def _given(tiling: tuple[int, ...], whole: tuple[int, ...], dtype: jnp.dtype) -> tuple[int, ...]:
    if len(tiling) != 4 or min(tiling) < 1:
        raise ValueError(
            f"tiling={tiling} must be positive sizes: (rows, depth, columns) of a product, (rows, depth, hidden, columns) "
            "of an FFN."
        )
    units = (tpu_memory.sublanes(dtype), *[tpu_memory.LANES] * 3)
    cut = tuple(min(t, s) for t, s in zip(tiling, whole))
    for name, tile, size, unit in zip(("rows", "depth", "hidden", "columns"), cut, whole, units):
        if tile != size and tile % unit:
            near = tpu_memory.round_up(tile, unit)
            raise ValueError(f"tiling={tiling}: {name}={tile} is not a multiple of {unit} ({dtype}); take {near}.")
    return cut


def _bytes(
    tiles: tuple[int, ...],
    columns: int,
    hidden: int,
    ranks: tuple[int, ...],
    operand: jnp.dtype,
    out: jnp.dtype,
    piece: int,
) -> int:
    rows, depth, wide, narrow = tiles
    *into, last = ranks
    single = jnp.dtype(jnp.float32)
    streamed = [
        ((rows, depth), operand),
        ((rows, tpu_memory.round_up(columns, narrow)), out),
        ((last, narrow), operand),
    ]
    streamed += [((depth, rank), operand) for rank in into]
    kept = [((rows, rank), single) for rank in into] + [((piece, narrow), single)]
    if hidden:
        streamed += [((rank, wide), operand) for rank in into] + [((wide, last), operand)]
        kept += [((piece, wide), single) for _ in into] + [((rows, last), single)]
    return tpu_memory.kernel_bytes(streamed, kept)
