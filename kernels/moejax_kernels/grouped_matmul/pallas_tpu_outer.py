"""Sums of outer products per group on TPU: the gradients of kernels. Compiled and interpreted; never timed on a device.

The grid is (tiles of D, tiles of F, items); items go by group, so that the sum of a group stays in vector memory and is
stored once, when the group ends. Empty groups have an item of their own, which stores exact zeros.
Source: ours.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from moejax_kernels import _compat, tpu_memory
from moejax_kernels.grouped_matmul import pallas_tpu_tiles, work_items
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.grouped_matmul.pallas_tpu_precision import dot_precision


def sum_of_outer(
    x: Float[Array, "M D"], y: Float[Array, "M F"], group_sizes: Int[Array, "E"], *, options: Options
) -> Float[Array, "E D F"]:
    """For each group the sum of x[m] y[m] over its rows. Raises ValueError for a tiling that the chip cannot hold.

    tiling: (rows, D, F). FLOPs: 2 M D F and those of pieces on borders of groups.
    """
    (rows, depth), columns, groups = x.shape, y.shape[1], group_sizes.shape[0]
    if rows == 0:
        return jnp.zeros((groups, depth, columns), options.dtype)
    tiles = pallas_tpu_tiles.choose(
        "sum_of_outer", (rows, depth, columns, groups), (x.dtype, options.dtype), options.tiling
    )
    items = work_items.outer_items(group_sizes, rows, tiles.rows)
    body = functools.partial(_kernel, tiles=tiles, precision=dot_precision(x.dtype, options.precision))
    return pl.pallas_call(
        body,
        out_shape=_compat.output_of((groups, depth, columns), options.dtype, x, y, group_sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(items),
            grid=(-(-depth // tiles.depth), -(-columns // tiles.columns), items.group.shape[0]),
            in_specs=[
                pl.BlockSpec((tiles.rows, tiles.depth), lambda a, b, i, *s: (work_items.Items(*s).read[i], a)),
                pl.BlockSpec((tiles.rows, tiles.columns), lambda a, b, i, *s: (work_items.Items(*s).read[i], b)),
            ],
            out_specs=pl.BlockSpec(
                (None, tiles.depth, tiles.columns), lambda a, b, i, *s: (work_items.Items(*s).group[i], a, b)
            ),
            scratch_shapes=[pltpu.VMEM((tiles.depth, tiles.columns), jnp.float32)],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=tpu_memory.request(tiles.vmem),
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * rows * depth * columns,
            bytes_accessed=(x.size + y.size) * x.dtype.itemsize + groups * depth * columns * options.dtype.itemsize,
            transcendentals=0,
        ),
        interpret=options.interpret,
        name="grouped_sum_of_outer",
    )(*items, x, y)


def _kernel(*refs: Any, tiles: pallas_tpu_tiles.Tiles, precision: Any) -> None:
    items, (x, y, out, total) = work_items.Items(*refs[:6]), refs[6:]
    i = pl.program_id(2)
    last = items.counts[1] - 1
    group = items.group[i]
    begins = (i == 0) | (items.group[jnp.maximum(i - 1, 0)] != group)
    ends = (i == last) | (items.group[jnp.minimum(i + 1, last)] != group)
    low, high = work_items.rows_in_tile(items, i, tiles.rows)

    def add(at: Any, mine: Array | None, start: Any, size: int) -> None:
        there = pl.ds(start, size)
        left, right = x[at, there], y[at, :]
        if mine is not None:  # on both sides: zero times what a row of another group holds could be NaN
            left, right = (work_items.only(mine, block) for block in (left, right))
        total[there, :] += lax.dot_general(
            left, right, (((0,), (0,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
        )

    def multiply(start: Any, rows: int, whole: bool) -> None:
        mine = None if whole else work_items.mine(start, rows, low, high)
        work_items.over_chunks(functools.partial(add, pl.ds(start, rows), mine), tiles.depth, tiles.body_depth)

    @pl.when(begins)
    def _() -> None:
        total[...] = jnp.zeros(total.shape, jnp.float32)

    work_items.over_pieces(multiply, low, high, tiles.rows, body=tiles.body_rows, piece=tiles.piece, when=i <= last)

    @pl.when(ends & (i <= last))
    def _() -> None:
        out[...] = total[...].astype(out.dtype)
