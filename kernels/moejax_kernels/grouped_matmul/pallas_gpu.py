"""Grouped products for NVIDIA Hopper, on Pallas' Mosaic GPU backend: the matrix unit's warpgroup instructions.

A block is one warpgroup that multiplies a tile of rows of one group by a tile of columns of that group's kernel, its
operands streamed to shared memory by the copy engine some steps ahead; two blocks share a multiprocessor, so that one
stores while the other multiplies. bfloat16 and float16, sums in float32 in registers; `precision` changes nothing, as
products of 16-bit numbers are exact in float32.
Arrays are padded, at the cost of a copy, only where the copy engine cannot address them: rows to a multiple of 8, columns
to one of 64.
Source: ours. Deviations: see `hopper.epilogue` for 'gelu_exact'. Compiled and interpreted, never timed on a device.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from moejax_kernels import _compat
from moejax_kernels.grouped_matmul import pallas_gpu_outer
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.hopper import limits
from moejax_kernels.hopper.epilogue import activate_in_kernel
from moejax_kernels.hopper.launch import launch
from moejax_kernels.hopper.operands import check_runs, columns_of, cut, padded, rows_of, swizzled
from moejax_kernels.hopper.row_tiles import ALIGNED, COUNT, GROUP, PLACE, SKIP, banded, most_tiles, row_tiles
from moejax_kernels.hopper.storing import store_rows

sum_of_outer = pallas_gpu_outer.sum_of_outer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A kernel's sizes: row_tiles x columns blocks of `steps` steps; groups: E; kernels: 2 for a gated pair."""

    tile: limits.Tiling
    row_tiles: int
    columns: int
    steps: int
    groups: int
    kernels: int
    transposed: bool
    activation: str | None


def product(
    x: Array,
    w: Array,
    bias: Array | None,
    group_sizes: Array,
    *,
    transposed: bool,
    activation: str | None,
    options: Options,
) -> Array:
    """As `gradients.py` asks. Raises ValueError for float32 operands and for a tiling that a block cannot hold."""
    return _multiply("product", x, (w,), bias, group_sizes, transposed, activation, options)


def gated_product(
    x: Array, gate: Array, up: Array, group_sizes: Array, *, activation: str | None, options: Options
) -> Array:
    """As `gradients.py` asks; one pass over x, two sums per output. Raises ValueError as `product`."""
    return _multiply("gated_product", x, (gate, up), None, group_sizes, False, activation, options)


def shared_bytes(tile: limits.Tiling, kernels: int, itemsize: int) -> int:
    """Shared memory of a block of either product; itemsize: of the output."""
    streamed = (tile.rows + kernels * tile.columns) * tile.depth * 2
    return limits.shared_bytes(streamed, tile.stages, tile.rows * tile.columns * itemsize)


def _multiply(
    op: str,
    x: Array,
    kernels: tuple[Array, ...],
    bias: Array | None,
    group_sizes: Array,
    transposed: bool,
    activation: str | None,
    options: Options,
) -> Array:
    check_runs(x.dtype, options.interpret)
    rows, depth = x.shape
    groups, width = kernels[0].shape[0], kernels[0].shape[1 if transposed else 2]
    if not rows:
        return jnp.zeros((0, width), options.dtype)
    tile = limits.tiling_for(op, options.tiling, limits.rows_per_group(x, groups))
    size = options.dtype.itemsize
    limits.check_fits(op, tile, lambda t: shared_bytes(t, len(kernels), size), tile.rows * tile.columns * len(kernels))
    if transposed and not _compat.copies_are_clipped(options.interpret):
        kernels, transposed = tuple(w.swapaxes(1, 2) for w in kernels), False
    x = padded(x, rows_of(rows, tile.rows, options.interpret), columns_of(depth, tile.depth, options.interpret))
    columns = columns_of(width, tile.columns, options.interpret)
    inner = (columns, x.shape[1]) if transposed else (x.shape[1], columns)
    kernels = tuple(padded(w, *inner) for w in kernels)
    plan = Plan(
        tile=tile,
        row_tiles=most_tiles(rows, groups, tile.rows),
        columns=pl.cdiv(columns, tile.columns),
        steps=pl.cdiv(x.shape[1], tile.depth),
        groups=groups,
        kernels=len(kernels),
        transposed=transposed,
        activation=activation,
    )
    operands = (row_tiles(group_sizes, rows, tile.rows).reshape(-1), x, *kernels)
    if bias is not None:  # a row of zeros for the rows after the last group, and columns for the last tile
        operands += (padded(bias.astype(jnp.float32), groups + 1, plan.columns * tile.columns),)
    result = launch(
        lambda *refs: _block(plan, bias is not None, *refs),
        operands,
        name=f"grouped_{op}",
        out=((x.shape[0], columns), options.dtype),
        grid={"block": plan.row_tiles * plan.columns},
        interpret=options.interpret,
    )
    return cut(result, rows, width)


def _block(plan: Plan, has_bias: bool, tiles: Any, x: Any, *refs: Any) -> None:
    """One tile of the output, of the rows of one group."""
    *kernels, out = refs
    bias = kernels.pop() if has_bias else None
    row, column = banded(lax.axis_index("block"), plan.row_tiles, plan.columns, plan.tile.band)
    group, place, skip, count = (tiles[field * plan.row_tiles + row] for field in (GROUP, PLACE, SKIP, COUNT))

    @pl.when(count > 0)
    def _() -> None:
        first = column * plan.tile.columns
        with_added = functools.partial(_with_bias, plan, bias, group, first) if has_bias else lambda do: do(None)

        @with_added
        def _(added: Any) -> None:
            value, *others = _sums(plan, x, kernels, group, place, column)
            if added is not None:
                value = value + lax.broadcast_in_dim(added(), value.shape, (1,))
            value = activate_in_kernel(value, plan.activation)
            for other in others:
                value = value * other
            store_rows(value, out, place * ALIGNED, skip, count, first)


def _with_bias(plan: Plan, bias: Any, group: Any, first: Any, do: Callable[[Callable[[], jax.Array]], None]) -> None:
    """Calls do with a function that waits for the group's bias and gives it; its copy runs beside the products."""

    @functools.partial(pl.run_scoped, part=plgpu.SMEM((plan.tile.columns,), jnp.float32), arrived=plgpu.Barrier())
    def _(part: Any, arrived: Any) -> None:
        plgpu.copy_gmem_to_smem(bias.at[group, pl.ds(first, plan.tile.columns)], part, arrived)

        def added() -> jax.Array:
            plgpu.barrier_wait(arrived)
            return part[...]

        do(added)


def _sums(plan: Plan, x: Any, kernels: Any, group: Any, place: Any, column: Any) -> tuple[jax.Array, ...]:
    """Products of the tile's rows with each kernel's tile of columns; zero for the rows after the last group."""
    tile, transposed = plan.tile, plan.transposed
    block = (tile.columns, tile.depth) if transposed else (tile.depth, tile.columns)

    def step(_: Any, rows: Any, *parts: Any) -> None:
        for held, part in zip(accumulators, parts, strict=True):
            plgpu.wgmma(held, rows, part.transpose((1, 0)) if transposed else part)
        plgpu.wgmma_wait(len(parts))  # those of the step before are done: their buffers may be filled again

    def spec(shape: tuple[Any, ...], index: Any) -> Any:
        return plgpu.BlockSpec(shape, index, delay_release=1, transforms=swizzled(x.dtype))

    accumulators: tuple[Any, ...] = ()

    def scope(*held: Any) -> tuple[jax.Array, ...]:
        nonlocal accumulators
        accumulators = held
        plgpu.emit_pipeline(
            step,
            grid=(jnp.where(group < plan.groups, jnp.int32(plan.steps), jnp.int32(0)),),
            in_specs=[
                spec((pl.Element(tile.rows), tile.depth), lambda k: (place * ALIGNED, k)),
                *[spec(block, (lambda k: (column, k)) if transposed else (lambda k: (k, column)))] * plan.kernels,
            ],
            max_concurrent_steps=tile.stages,
        )(x, *[w.at[lax.min(group, jnp.int32(plan.groups - 1))] for w in kernels])
        return tuple(accumulator[...] for accumulator in held)

    return pl.run_scoped(scope, *[plgpu.ACC((tile.rows, tile.columns))] * plan.kernels)
