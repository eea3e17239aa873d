"""The low-rank FFN for NVIDIA Hopper in one kernel: no [M R] and no [M F] array exists.

A block takes a tile of rows of one group into the rank space of `up` (and of `gate`), and from there to one tile of hidden
columns after the other; each is activated, multiplied into the rank space of `down` and forgotten. Where the rank of `down`
is more than one piece, the hidden tiles are computed again for each piece, so that the sums stay in registers: its FLOPs
per row are 2 R D + pieces * 2 R F + 2 S (F + O).
Source: ours. Compiled and interpreted, never timed on a device.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.hopper import limits
from moejax_kernels.hopper.epilogue import activate_in_kernel
from moejax_kernels.hopper.launch import launch
from moejax_kernels.hopper.operands import COLUMNS, check_runs, columns_of, cut, padded, round_up, rows_of, swizzled
from moejax_kernels.hopper.rank_space import into, middle_of, out_of, piece_of, pieces_of_groups
from moejax_kernels.hopper.row_tiles import ALIGNED, COUNT, GROUP, PLACE, SKIP, most_tiles, row_tiles
from moejax_kernels.hopper.storing import store_rows

Factors = tuple[Array, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """hidden, columns: tiles of hidden and of output columns. into_ranks: of up, and of gate; down_rank: of down."""

    tile: limits.Tiling
    row_tiles: int
    hidden: int
    columns: int
    into_ranks: tuple[int, ...]
    down_rank: int
    groups: int
    activation: str | None


def shared_bytes(tile: limits.Tiling, into_ranks: tuple[int, ...], down_rank: int, itemsize: int) -> int:
    """Shared memory of a block of `ffn`; itemsize: of the output."""
    pieces, down = [piece_of(rank, tile.rows) for rank in into_ranks], piece_of(down_rank, tile.rows)
    middles = tile.rows * (sum(into_ranks) + down_rank) * 2
    entering = tile.stages * (tile.rows + max(pieces)) * tile.depth * 2
    through = (tile.rows + down + tile.stages * max(pieces)) * tile.columns * 2
    leaving = tile.columns * max(tile.stages * down * 2, tile.rows * itemsize)
    return middles + max(entering, through, leaving) + limits.BARRIER * (2 * tile.stages + 1)


def ffn(
    x: Array,
    up: Factors,
    gate: Factors | None,
    down: Factors,
    group_sizes: Array,
    *,
    ranks: Any,
    activation: str | None,
    options: Options,
) -> Array:
    """As `gradients.py` asks. Raises ValueError for float32 operands and for ranks or a tiling that a block cannot hold."""
    check_runs(x.dtype, options.interpret)
    rows, groups, width = x.shape[0], up[0].shape[0], down[1].shape[2]
    if not rows:
        return jnp.zeros((0, width), options.dtype)
    tile = limits.tiling_for("lowrank_ffn", options.tiling, limits.rows_per_group(x, groups))
    entering = [up] if gate is None else [up, gate]
    held = [round_up(pair[0].shape[2], COLUMNS) for pair in (*entering, down)]
    size = options.dtype.itemsize
    limits.check_fits(
        "lowrank_ffn", tile, lambda t: shared_bytes(t, tuple(held[:-1]), held[-1], size), tile.rows * tile.columns
    )
    deep, hidden, wide = (
        columns_of(n, t, options.interpret)
        for n, t in ((x.shape[1], tile.depth), (up[1].shape[2], tile.columns), (width, tile.columns))
    )
    sides = [(deep, hidden)] * len(entering) + [(hidden, wide)]
    factors = [
        padded(factor, *shape)
        for pair, rank, (first, last) in zip((*entering, down), held, sides, strict=True)
        for factor, shape in zip(pair, ((first, rank), (rank, last)), strict=True)
    ]
    plan = Plan(
        tile=tile,
        row_tiles=most_tiles(rows, groups, tile.rows),
        hidden=pl.cdiv(hidden, tile.columns),
        columns=pl.cdiv(wide, tile.columns),
        into_ranks=tuple(held[:-1]),
        down_rank=held[-1],
        groups=groups,
        activation=activation,
    )
    asked = ranks if gate is not None else (ranks[0], ranks[2])
    pieces = [pieces_of_groups(given, groups, rank, tile.rows) for given, rank in zip(asked, held, strict=True)]
    x = padded(x, rows_of(rows, tile.rows, options.interpret), deep)
    operands = (row_tiles(group_sizes, rows, tile.rows).reshape(-1), jnp.stack(pieces).reshape(-1), x, *factors)
    result = launch(
        lambda *refs: _block(plan, *refs),
        operands,
        name="lowrank_ffn",
        out=((x.shape[0], wide), options.dtype),
        grid={"tile": plan.row_tiles},
        interpret=options.interpret,
    )
    return cut(result, rows, width)


def _block(plan: Plan, tiles: Any, pieces: Any, x: Any, *refs: Any) -> None:
    """One tile of rows, from x to the output."""
    *factors, out = refs
    row, tile = lax.axis_index("tile"), plan.tile
    group, place, skip, count = (tiles[field * plan.row_tiles + row] for field in (GROUP, PLACE, SKIP, COUNT))

    @pl.when(count > 0)
    def _() -> None:
        held = lax.min(group, jnp.int32(plan.groups - 1))
        mine = [factor.at[held] for factor in factors]
        needed = [pieces[n * (plan.groups + 1) + group] for n in range(len(factors) // 2)]

        def scope(down: Any, *middles: Any) -> None:
            for middle, u, many in zip(middles, mine[::2], needed):
                into(middle, x, u, place, many, tile)
            _through_hidden(plan, down, middles, mine[1:-2:2], mine[-2], needed)

            def one(column: Any, _: None) -> None:
                value = out_of(down, mine[-1], needed[-1], column, tile.columns, tile.stages)
                store_rows(value, out, place * ALIGNED, skip, count, column * tile.columns)

            lax.fori_loop(0, plan.columns, one, None)

        ranks = (plan.down_rank, *plan.into_ranks)
        pl.run_scoped(scope, *[middle_of(rank, tile.rows, x.dtype) for rank in ranks])


def _through_hidden(plan: Plan, down: Any, middles: Any, to_hidden: Any, from_hidden: Any, needed: Any) -> None:
    """Down = hidden from_hidden, hidden tile by tile, with hidden = activation(middle to_hidden) (gated: times the other)."""
    tile, (_, _, piece), form = plan.tile, down.shape, swizzled(down.dtype)

    def scope(hidden: Any, factor: Any, arrived: Any) -> None:
        def one_piece(at: Any, _: None) -> None:
            def sums(total: Any) -> jax.Array:
                def one_tile(column: Any, _: None) -> None:
                    part = pl.ds(column * tile.columns, tile.columns), pl.ds(at * piece, piece)
                    plgpu.copy_gmem_to_smem(from_hidden.at[part], factor, arrived)
                    value, *gated = (
                        out_of(middle, v, many, column, tile.columns, tile.stages)
                        for middle, v, many in zip(middles, to_hidden, needed)
                    )
                    value = _join(value, gated, plan.activation)
                    hidden[...] = value.astype(hidden.dtype)
                    plgpu.commit_smem()
                    plgpu.barrier_wait(arrived)
                    plgpu.wgmma(total, hidden, factor)
                    plgpu.wgmma_wait(0)  # before the next tile is written over this one

                lax.fori_loop(0, plan.hidden, one_tile, None)
                return total[...]

            down[at] = pl.run_scoped(sums, plgpu.ACC((tile.rows, piece))).astype(down.dtype)
            plgpu.commit_smem()

        lax.fori_loop(0, needed[-1], one_piece, None)

    pl.run_scoped(
        scope,
        plgpu.SMEM((tile.rows, tile.columns), down.dtype, transforms=form),
        plgpu.SMEM((tile.columns, piece), down.dtype, transforms=form),
        plgpu.Barrier(),
    )


def _join(value: jax.Array, gated: list[jax.Array], activation: str | None) -> jax.Array:
    """activation(value), or with a gate activation(gated) * value, in float32."""
    if not gated:
        return activate_in_kernel(value, activation)
    return activate_in_kernel(gated[0], activation) * value
