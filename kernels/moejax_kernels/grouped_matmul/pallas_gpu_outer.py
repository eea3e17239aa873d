"""Sums of outer products over the rows of each group (what a kernel's gradient is), for NVIDIA Hopper.

A block sums one tile [depth columns] of one group's [D F] over the group's rows, which the copy engine brings to shared
memory some steps ahead. The first and the last step of a group may hold rows of its neighbours: there, those rows of both
operands are set to zero in shared memory, so that what they hold (NaN too) reaches nothing.
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

from moejax_kernels import _compat
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.hopper import limits
from moejax_kernels.hopper.launch import launch
from moejax_kernels.hopper.operands import check_runs, columns_of, cut, padded, rows_of, swizzled
from moejax_kernels.hopper.row_tiles import ALIGNED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """tile: rows of a step, depth and columns of the block's part of [D F]; x_lies_turned: x is [D M]."""

    tile: limits.Tiling
    down: int
    across: int
    groups: int
    x_lies_turned: bool


def shared_bytes(tile: limits.Tiling, itemsize: int) -> int:
    """Shared memory of a block; itemsize: of the output."""
    streamed = (tile.depth + tile.columns) * tile.rows * 2
    return limits.shared_bytes(streamed, tile.stages, tile.depth * tile.columns * itemsize)


def sum_of_outer(x: Array, y: Array, group_sizes: Array, *, options: Options) -> Array:
    """As `gradients.py` asks. Raises ValueError for float32 operands and for a tiling that a block cannot hold."""
    check_runs(x.dtype, options.interpret)
    rows, depth, width, groups = x.shape[0], x.shape[1], y.shape[1], group_sizes.shape[0]
    if not rows:
        return jnp.zeros((groups, depth, width), options.dtype)
    tile = limits.tiling_for("sum_of_outer", options.tiling, limits.rows_per_group(x, groups))
    size = options.dtype.itemsize
    limits.check_fits("sum_of_outer", tile, lambda t: shared_bytes(t, size), tile.depth * tile.columns)
    held = rows_of(rows, tile.rows, options.interpret)
    x = padded(x, held, columns_of(depth, tile.depth, options.interpret))
    y = padded(y, held, columns_of(width, tile.columns, options.interpret))
    shape = (groups, x.shape[1], y.shape[1])
    plan = Plan(
        tile=tile,
        down=pl.cdiv(shape[1], tile.depth),
        across=pl.cdiv(shape[2], tile.columns),
        groups=groups,
        x_lies_turned=not _compat.copies_are_clipped(options.interpret),
    )
    stops = jnp.cumsum(group_sizes, dtype=jnp.int32)
    operands = (stops - group_sizes.astype(jnp.int32), stops, x.T if plan.x_lies_turned else x, y)
    result = launch(
        lambda *refs: _block(plan, *refs),
        operands,
        name="grouped_sum_of_outer",
        out=(shape, options.dtype),
        grid={"group": groups, "part": plan.down * plan.across},
        interpret=options.interpret,
    )
    return cut(result, groups, depth, width)


def _block(plan: Plan, starts: Any, stops: Any, x: Any, y: Any, out: Any) -> None:
    """One tile of one group's sum."""
    tile, group, part = plan.tile, lax.axis_index("group"), lax.axis_index("part")
    down = lax.div(part, jnp.int32(plan.across))
    across = part - down * plan.across
    start, stop = starts[group], stops[group]
    place = lax.div(start, jnp.int32(ALIGNED))
    steps = lax.div(stop - place * ALIGNED + (tile.rows - 1), jnp.int32(tile.rows))
    steps = jnp.where(stop > start, steps, jnp.int32(0))
    total = _sum(plan, x, y, start, stop, place, steps, down, across)

    def store(box: Any) -> None:
        box[...] = total.astype(out.dtype)
        plgpu.commit_smem()
        columns = pl.ds(across * tile.columns, tile.columns)
        plgpu.copy_smem_to_gmem(box, out.at[group, pl.ds(down * tile.depth, tile.depth), columns])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    pl.run_scoped(store, plgpu.SMEM((tile.depth, tile.columns), out.dtype, transforms=swizzled(out.dtype)))


def _sum(
    plan: Plan, x: Any, y: Any, start: Any, stop: Any, place: Any, steps: Any, down: Any, across: Any
) -> jax.Array:
    """The sum over the rows from start to stop, in float32; zero for no steps."""
    tile, turned = plan.tile, plan.x_lies_turned

    def scope(total: Any) -> jax.Array:
        def step(index: Any, left: Any, right: Any) -> None:
            first = place * ALIGNED + index[0] * tile.rows

            @pl.when((first < start) | (first + tile.rows > stop))
            def _() -> None:
                _clear_others(left, first, start, stop, axis=1 if turned else 0)
                _clear_others(right, first, start, stop, axis=0)
                plgpu.commit_smem()

            plgpu.wgmma(total, left if turned else left.transpose((1, 0)), right)
            plgpu.wgmma_wait(1)  # that of the step before is done: its buffers may be filled again

        def row(k: Any) -> Any:
            return place * ALIGNED + k * tile.rows

        def spec(shape: tuple[Any, ...], index: Any) -> Any:
            return plgpu.BlockSpec(shape, index, delay_release=1, transforms=swizzled(x.dtype))

        rows = pl.Element(tile.rows)
        rows_of_x = spec((rows, tile.depth), lambda k: (row(k), down))
        columns_of_x = spec((tile.depth, rows), lambda k: (down, row(k)))
        plgpu.emit_pipeline(
            step,
            grid=(steps,),
            in_specs=[columns_of_x if turned else rows_of_x, spec((rows, tile.columns), lambda k: (row(k), across))],
            max_concurrent_steps=tile.stages,
        )(x, y)
        return total[...]

    return pl.run_scoped(scope, plgpu.ACC((tile.depth, tile.columns)))


def _clear_others(box: Any, first: Any, start: Any, stop: Any, *, axis: int) -> None:
    """Sets the rows of a tile (they lie along axis, the first is `first`) that are not of start..stop to zero."""
    row = lax.broadcasted_iota(jnp.int32, box.shape, axis) + first
    box[...] = jnp.where((row >= start) & (row < stop), box[...], jnp.zeros((), box.dtype))
