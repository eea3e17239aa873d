"""Low-rank products for NVIDIA Hopper: what lies between the factors stays in shared memory.

A block takes a tile of rows of one group, multiplies it into rank space piece by piece, and from there to tiles of columns.
Where a group has a rank, pieces beyond it are neither read nor multiplied. bfloat16 and float16, sums in float32; what
enters a product is rounded to the dtype of x. Padded at the cost of a copy only where the copy engine cannot address an
array: rows to a multiple of 8, widths and ranks to one of 64.
Source: ours. Compiled and interpreted, never timed on a device.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.hopper import limits
from moejax_kernels.hopper.launch import launch
from moejax_kernels.hopper.operands import COLUMNS, check_runs, columns_of, cut, padded, round_up, rows_of
from moejax_kernels.hopper.rank_space import into, middle_of, out_of, piece_of, pieces_of_groups
from moejax_kernels.hopper.row_tiles import ALIGNED, COUNT, GROUP, PLACE, SKIP, most_tiles, row_tiles
from moejax_kernels.hopper.storing import store_rows
from moejax_kernels.lowrank_matmul import pallas_gpu_ffn

ffn = pallas_gpu_ffn.ffn

BLOCKS = 264  # that run at one time: two on each of an H100's 132 multiprocessors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """row_tiles x parts blocks, each of `share` of the `columns` tiles of columns; pieces of the rank; groups: E."""

    tile: limits.Tiling
    row_tiles: int
    columns: int
    share: int
    rank: int
    groups: int


def shared_bytes(tile: limits.Tiling, rank: int, itemsize: int) -> int:
    """Shared memory of a block of `product`; itemsize: of the output."""
    piece = piece_of(rank, tile.rows)
    first = tile.stages * (tile.rows + piece) * tile.depth * 2
    second = max(tile.stages * piece * tile.columns * 2, tile.rows * tile.columns * itemsize)
    return tile.rows * rank * 2 + max(first, second) + 2 * limits.BARRIER * tile.stages


def product(x: Array, u: Array, v: Array, group_sizes: Array, *, ranks: Array | None, options: Options) -> Array:
    """As `gradients.py` asks. Raises ValueError for float32 operands and for a rank or tiling that a block cannot hold."""
    check_runs(x.dtype, options.interpret)
    (rows, depth), (groups, stored, width) = x.shape, v.shape
    if not rows:
        return jnp.zeros((0, width), options.dtype)
    tile = limits.tiling_for("lowrank_product", options.tiling, limits.rows_per_group(x, groups))
    rank = round_up(stored, COLUMNS)
    size = options.dtype.itemsize
    limits.check_fits("lowrank_product", tile, lambda t: shared_bytes(t, rank, size), tile.rows * tile.columns)
    deep = columns_of(depth, tile.depth, options.interpret)
    wide = columns_of(width, tile.columns, options.interpret)
    x = padded(x, rows_of(rows, tile.rows, options.interpret), deep)
    u, v = padded(u, deep, rank), padded(v, rank, wide)
    columns, tiles = pl.cdiv(wide, tile.columns), most_tiles(rows, groups, tile.rows)
    parts = min(columns, pl.cdiv(BLOCKS, tiles))
    plan = Plan(tile=tile, row_tiles=tiles, columns=columns, share=pl.cdiv(columns, parts), rank=rank, groups=groups)
    pieces = pieces_of_groups(ranks, groups, rank, tile.rows)
    operands = (row_tiles(group_sizes, rows, tile.rows).reshape(-1), pieces, x, u, v)
    result = launch(
        lambda *refs: _block(plan, *refs),
        operands,
        name="lowrank_product",
        out=((x.shape[0], wide), options.dtype),
        grid={"tile": tiles, "part": parts},
        interpret=options.interpret,
    )
    return cut(result, rows, width)


def _block(plan: Plan, tiles: Any, pieces: Any, x: Any, u: Any, v: Any, out: Any) -> None:
    """One tile of rows, one share of the columns."""
    row, part, tile = lax.axis_index("tile"), lax.axis_index("part"), plan.tile
    group, place, skip, count = (tiles[field * plan.row_tiles + row] for field in (GROUP, PLACE, SKIP, COUNT))

    @pl.when(count > 0)
    def _() -> None:
        held = lax.min(group, jnp.int32(plan.groups - 1))
        needed = pieces[group]

        def scope(middle: Any) -> None:
            into(middle, x, u.at[held], place, needed, tile)

            def one(column: Any, _: None) -> None:
                value = out_of(middle, v.at[held], needed, column, tile.columns, tile.stages)
                store_rows(value, out, place * ALIGNED, skip, count, column * tile.columns)

            last = lax.min((part + 1) * plan.share, jnp.int32(plan.columns))
            lax.fori_loop(part * plan.share, last, one, None)

        pl.run_scoped(scope, middle_of(plan.rank, tile.rows, x.dtype))


def attention(tokens: Any, factors: Any, *, causal: bool, options: Options) -> tuple[Array, Array]:
    """Raises NotImplementedError: there is no such kernel for this backend yet."""
    raise NotImplementedError(
        "implementation='pallas_gpu' has no attention from low-rank factors; take implementation='xla', which runs on GPUs."
    )
