"""Grouped products on TPU. Compiled ahead of time and interpreted; never timed on a device.

The grid is (columns, items, depth); an item is a tile of rows and one group with rows in it (`work_items`). Items of one
tile of rows follow each other, so the block of the output stays in vector memory while each group stores its own rows, and
consecutive items of one group reuse its kernel. A tile that belongs to one group is multiplied at once; of a tile on a
border only the pieces of rows that the group reaches into are, so that small groups cost little more than their rows.

Source: the tiling over row tiles and groups follows Gale et al. 2022, "MegaBlocks", section 5; pieces and zero rows: ours.
"""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from moejax_kernels import _compat, tpu_memory
from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul import pallas_tpu_outer, pallas_tpu_tiles, work_items
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.grouped_matmul.pallas_tpu_precision import dot_precision

sum_of_outer = pallas_tpu_outer.sum_of_outer


def product(
    x: Float[Array, "M D"],
    w: Float[Array, "E ..."],
    bias: Float[Array, "E F"] | None,
    group_sizes: Int[Array, "E"],
    *,
    transposed: bool,
    activation: str | None,
    options: Options,
) -> Float[Array, "M F"]:
    """activation(x w[e] + bias[e]); w is [E D F], or [E F D] when transposed (its last axis is contracted where it lies).

    Raises ValueError for a tiling that the chip cannot hold. FLOPs: 2 M D F and those of pieces on borders of groups.
    """
    return _product(x, (w,), bias, group_sizes, transposed=transposed, activation=activation, options=options)


def gated_product(
    x: Float[Array, "M D"],
    gate: Float[Array, "E D F"],
    up: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],
    *,
    activation: str | None,
    options: Options,
) -> Float[Array, "M F"]:
    """activation(x gate[e]) * (x up[e]) in one kernel that reads x once. Errors and FLOPs (twice) as for `product`."""
    return _product(x, (gate, up), None, group_sizes, transposed=False, activation=activation, options=options)


def _product(
    x: Array,
    kernels: tuple[Array, ...],
    bias: Array | None,
    group_sizes: Array,
    *,
    transposed: bool,
    activation: str | None,
    options: Options,
) -> Array:
    rows, depth = x.shape
    groups, columns = kernels[0].shape[0], kernels[0].shape[1 if transposed else 2]
    if rows == 0:
        return jnp.zeros((0, columns), options.dtype)
    op = "product" if len(kernels) == 1 else "gated_product"
    tiles = pallas_tpu_tiles.choose(
        op, (rows, depth, columns, groups), (x.dtype, options.dtype), options.tiling, kernels=len(kernels)
    )
    items = work_items.product_items(group_sizes, rows, tiles.rows)
    steps = -(-depth // tiles.depth)
    body = functools.partial(
        _kernel,
        count=len(kernels),
        has_bias=bias is not None,
        tiles=tiles,
        depth=depth,
        transposed=transposed,
        activation=activation,
        precision=dot_precision(x.dtype, options.precision),
    )
    operands = (x, *kernels) if bias is None else (x, *kernels, bias[:, None, :])
    return pl.pallas_call(
        body,
        out_shape=_compat.output_of((rows, columns), options.dtype, *operands, group_sizes),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(items),
            grid=(-(-columns // tiles.columns), items.group.shape[0], steps),
            in_specs=_in_specs(tiles, steps, len(kernels), transposed=transposed, has_bias=bias is not None),
            out_specs=pl.BlockSpec((tiles.rows, tiles.columns), lambda j, i, k, *s: (work_items.Items(*s).tile[i], j)),
            scratch_shapes=[pltpu.VMEM((tiles.rows, tiles.columns), jnp.float32)] * len(kernels),
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=tpu_memory.request(tiles.vmem),
        ),
        cost_estimate=_cost(operands, (rows, depth, columns), len(kernels), activation, options.dtype),
        interpret=options.interpret,
        name=f"grouped_{op}",
    )(*items, *operands)


def _in_specs(
    tiles: pallas_tpu_tiles.Tiles, steps: int, kernels: int, *, transposed: bool, has_bias: bool
) -> list[pl.BlockSpec]:
    """Blocks of x, of each kernel and of the bias. An item that multiplies nothing stays at the blocks read last."""

    def deep(i: Array, k: Array, s: work_items.Items) -> Array:
        return lax.select(i < s.counts[0], k, jnp.int32(steps - 1))

    def rows_at(j: Array, i: Array, k: Array, *scalars: Any) -> tuple[Array, Array]:
        s = work_items.Items(*scalars)
        return s.read[i], deep(i, k, s)

    def kernel_at(j: Array, i: Array, k: Array, *scalars: Any) -> tuple[Array, Array, Array]:
        s = work_items.Items(*scalars)
        at = deep(i, k, s)
        return (s.group[i], j, at) if transposed else (s.group[i], at, j)

    def bias_at(j: Array, i: Array, k: Array, *scalars: Any) -> tuple[Array, int, Array]:
        return work_items.Items(*scalars).group[i], 0, j

    shape = (tiles.columns, tiles.depth) if transposed else (tiles.depth, tiles.columns)
    specs = [pl.BlockSpec((tiles.rows, tiles.depth), rows_at), *[pl.BlockSpec((None, *shape), kernel_at)] * kernels]
    return [*specs, pl.BlockSpec((None, 1, tiles.columns), bias_at)] if has_bias else specs


def _kernel(
    *refs: Any,
    count: int,
    has_bias: bool,
    tiles: pallas_tpu_tiles.Tiles,
    depth: int,
    transposed: bool,
    activation: str | None,
    precision: Any,
) -> None:
    items, (x, *rest) = work_items.Items(*refs[:6]), refs[6:]
    kernels, rest = rest[:count], rest[count:]
    bias, rest = (rest[0], rest[1:]) if has_bias else (None, rest)
    out, sums = rest[0], rest[1:]
    i, k = pl.program_id(1), pl.program_id(2)
    last = pl.num_programs(2) - 1
    low, high = work_items.rows_in_tile(items, i, tiles.rows)

    def add(w: Any, total: Any, at: Any, start: Any, size: int) -> None:
        there, axis = pl.ds(start, size), 1 if transposed else 0
        left, right = x[at, there], w[:, there] if transposed else w[there, :]
        if depth % tiles.depth:
            left, right = (
                work_items.inside(a, n, k * tiles.depth + start, depth) for a, n in ((left, 1), (right, axis))
            )
        contract = (((1,), (axis,)), ((), ()))
        # A sum begins from zero, whatever the memory held: a select costs no bundle where a store of zeros does.
        begins = (k == 0) & (start == 0)
        kept = jnp.where(begins, jnp.zeros((), jnp.float32), total[at, :])
        total[at, :] = kept + lax.dot_general(
            left, right, contract, precision=precision, preferred_element_type=jnp.float32
        )

    def multiply(start: Any, rows: int, whole: bool) -> None:
        at = pl.ds(start, rows)
        for w, total in zip(kernels, sums):
            work_items.over_chunks(functools.partial(add, w, total, at), tiles.depth, tiles.body_depth)
        pl.when(k == last)(lambda: store(start, rows, whole))

    def store(start: Any, rows: int, whole: bool) -> None:
        at = pl.ds(start, rows)
        values = [total[at, :] if bias is None else total[at, :] + bias[...].astype(jnp.float32) for total in sums]
        value = activate(values[0], activation)
        keep(at, value * values[1] if count == 2 else value, None if whole else (start, rows))

    def clear(start: Any, rows: int, whole: bool) -> None:
        keep(pl.ds(start, rows), jnp.zeros((rows, tiles.columns), jnp.float32), None if whole else (start, rows))

    def keep(at: Any, value: Array, part: tuple[Any, int] | None) -> None:
        if part is not None:
            value = jnp.where(work_items.mine(*part, low, high), value, out[at, :].astype(jnp.float32))
        out[at, :] = value.astype(out.dtype)

    pieces = functools.partial(
        work_items.over_pieces, low=low, high=high, rows=tiles.rows, body=tiles.body_rows, piece=tiles.piece
    )
    pieces(multiply, when=i < items.counts[0])
    pieces(clear, when=(i >= items.counts[0]) & (i < items.counts[1]) & (k == last))


def _cost(
    operands: tuple[Array, ...], sizes: tuple[int, int, int], kernels: int, activation: str | None, dtype: Any
) -> pl.CostEstimate:
    """Of the useful work, every row in a group; each operand is read once."""
    rows, depth, columns = sizes
    moved = sum(a.size * a.dtype.itemsize for a in operands) + rows * columns * jnp.dtype(dtype).itemsize
    return pl.CostEstimate(
        flops=2 * rows * depth * columns * kernels,
        bytes_accessed=moved,
        transcendentals=0 if activation in (None, "relu") else rows * columns,
    )
