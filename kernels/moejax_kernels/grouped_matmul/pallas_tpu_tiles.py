"""Tiles of the grouped kernels on TPU: the table of the chip's generation, cut to the shapes, or the caller's, checked."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from moejax_kernels import tpu_memory
from moejax_kernels.platforms import target

PIECE = 128  # rows multiplied at once where a tile of rows belongs to a group in part


class Tiles(NamedTuple):
    """rows of x, depth D, columns F of one step; the rows and depth that one product inside it has; bytes of vector memory.

    The rows (sum_of_outer: the depth) and depth of a body are such that what it keeps of x fits in registers.
    """

    rows: int
    depth: int
    columns: int
    body_rows: int
    body_depth: int
    vmem: int

    @property
    def piece(self) -> int:
        """Rows multiplied of a tile that is shared by groups: PIECE where that divides the rows."""
        return PIECE if self.rows % PIECE == 0 else self.rows


def choose(
    op: str,
    sizes: tuple[int, int, int, int],
    dtypes: tuple[Any, Any],
    tiling: tuple[int, ...] | None,
    *,
    kernels: int = 1,
) -> Tiles:
    """Tiles for rows, depth, columns and groups of those sizes; dtypes of the operands and of the output.

    Raises ValueError for a tiling that is not three positive sizes, breaks the chip's register tiles, or needs more vector
    memory than the chip has. Source: ours.
    """
    held = tpu_memory.chip(target())
    rows, depth, columns, groups = sizes
    kinds = tuple(jnp.dtype(d) for d in dtypes)

    def need(tiles: tuple[int, ...]) -> int:
        return _bytes(op, tiles, kinds, kernels)

    if tiling is not None:
        tiles = _given(tiling, sizes, kinds[0])
        return _with_body(tiles, held.body(op, kinds[0]), tpu_memory.check_fits(op, tiles, need, held))
    table = held.largest(op, kinds[0])
    even = 1 << max(0, (-(-rows // groups)) - 1).bit_length()  # rows of a group, were they even, up to a power of two
    most_columns = table[2] if columns <= table[2] // 2 else min(table[2], _shared(columns, held.cores))
    tiles = (
        min(max(PIECE, min(table[0], even)), tpu_memory.round_up(rows, tpu_memory.sublanes(kinds[0]))),
        tpu_memory.tile_of(depth, table[1]),
        tpu_memory.tile_of(columns, most_columns),
    )
    rows, depth, columns = tpu_memory.shrunk(tiles, need, held)
    tiles = (rows, depth, columns)
    return _with_body(tiles, held.body(op, kinds[0]), tpu_memory.check_fits(op, tiles, need, held))


def _with_body(tiles: tuple[int, ...], body: tuple[int, int], vmem: int) -> Tiles:
    """The body of the table where it divides the rows, else one of all rows."""
    rows, depth, columns = tiles
    whole = min(body[0], rows)
    return Tiles(rows, depth, columns, whole if rows % whole == 0 else rows, min(body[1], depth), vmem)


def _shared(size: int, cores: int) -> int:
    """The part of an axis that one core gets, in whole lanes."""
    return tpu_memory.round_up(-(-size // cores), tpu_memory.LANES)


def _given(tiling: tuple[int, ...], sizes: tuple[int, int, int, int], dtype: jnp.dtype) -> tuple[int, int, int]:
    if len(tiling) != 3 or min(tiling) < 1:
        raise ValueError(f"tiling={tiling} must be three positive sizes: (rows, depth, columns).")
    whole = (tpu_memory.round_up(sizes[0], tpu_memory.sublanes(dtype)), sizes[1], sizes[2])
    cut = tuple(min(t, s) for t, s in zip(tiling, whole))
    units = (tpu_memory.sublanes(dtype), tpu_memory.LANES, tpu_memory.LANES)
    for name, tile, size, unit in zip(("rows", "depth", "columns"), cut, whole, units):
        if tile != size and tile % unit:
            near = tpu_memory.round_up(tile, unit)
            raise ValueError(f"tiling={tiling}: {name}={tile} is not a multiple of {unit} ({dtype}); take {near}.")
    return cut  # type: ignore[return-value]


def _bytes(op: str, tiles: tuple[int, ...], dtypes: tuple[jnp.dtype, ...], kernels: int) -> int:
    rows, depth, columns = tiles
    operand, out = dtypes
    wide = jnp.dtype(jnp.float32)
    if op == "sum_of_outer":
        streamed = [((rows, depth), operand), ((rows, columns), operand), ((depth, columns), out)]
        return tpu_memory.kernel_bytes(streamed, [((depth, columns), wide)])
    streamed = [((rows, depth), operand), ((rows, columns), out), ((1, columns), operand)]
    streamed += [((depth, columns), operand)] * kernels
    return tpu_memory.kernel_bytes(streamed, [((rows, columns), wide)] * kernels)
