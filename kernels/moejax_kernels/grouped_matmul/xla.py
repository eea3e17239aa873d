"""Grouped products from plain XLA operations whose cost does not grow with the number of groups.

A loop over groups multiplies each group's rows in blocks: large blocks while they fit, smaller ones for what is left.
The last block of a group may overrun into the rows of the next; since groups come in order, the next one overwrites
them, so no product needs a mask. A sum over rows does, in its last block.
Source: ours (measured against `lax.ragged_dot`, which on CPU multiplies every row by every kernel).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul.options import Options

ROW_BLOCKS = (256, 64, 16)  # rows of a block, largest first
SUM_BLOCKS = (512, 256, 128, 64, 32)  # rows summed at once, largest first


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
    """activation(x w[e] + bias[e]), block by block. Source: ours."""

    def body(block: Array, kernels: tuple[Array, Array | None]) -> Array:
        linear = _dot(block, kernels[0], 1, 1 if transposed else 0, options)
        if kernels[1] is not None:
            linear = linear + kernels[1].astype(linear.dtype)[None, :]
        return activate(linear, activation).astype(options.dtype)

    return over_blocks(body, x, (w, bias), group_sizes, w.shape[1 if transposed else 2], options)


def gated_product(
    x: Float[Array, "M D"],
    gate: Float[Array, "E D F"],
    up: Float[Array, "E D F"],
    group_sizes: Int[Array, "E"],
    *,
    activation: str | None,
    options: Options,
) -> Float[Array, "M F"]:
    """activation(x gate[e]) * (x up[e]), block by block. Source: ours."""

    def body(block: Array, kernels: tuple[Array, Array]) -> Array:
        gated, value = (_dot(block, kernel, 1, 0, options) for kernel in kernels)
        return (activate(gated, activation) * value).astype(options.dtype)

    return over_blocks(body, x, (gate, up), group_sizes, gate.shape[2], options)


def over_blocks(
    body: Callable[[Array, Any], Array],
    x: Float[Array, "M D"],
    kernels: Any,
    group_sizes: Int[Array, "E"],
    width: int,
    options: Options,
) -> Float[Array, "M F"]:
    """`body(block of rows, a group's kernels)` [block, width] for every block of every group; rows of no group are zero.

    kernels: a tree of arrays [E ...]. A row's result may depend on its own row only. Source: ours.
    """
    rows = x.shape[0]
    blocks = _fitting(options.tiling or ROW_BLOCKS, rows)
    starts = jnp.cumsum(group_sizes) - group_sizes
    padded = jnp.pad(x, ((0, blocks[0]), (0, 0)))

    def one_group(out: Array, group: tuple[Any, Array, Array]) -> tuple[Array, None]:
        mine, start, size = group
        for block in blocks:
            last = block == blocks[-1]
            count = -(-size // block) if last else size // block

            def step(i: Array, out: Array, start: Array = start, block: int = block) -> Array:
                at = start + i * block
                result = body(lax.dynamic_slice_in_dim(padded, at, block), mine)
                return lax.dynamic_update_slice_in_dim(out, result, at, 0)

            out = lax.fori_loop(0, count, step, out)
            start, size = start + count * block, size - count * block
        return out, None

    out, _ = lax.scan(one_group, jnp.zeros((rows + blocks[0], width), options.dtype), (kernels, starts, group_sizes))
    owned = jnp.arange(rows) < jnp.sum(group_sizes)
    return jnp.where(owned[:, None], out[:rows], jnp.zeros((), options.dtype))


def sum_of_outer(
    x: Float[Array, "M D"], y: Float[Array, "M F"], group_sizes: Int[Array, "E"], *, options: Options
) -> Float[Array, "E D F"]:
    """The sum of x[m] y[m] over the rows of each group, block by block. Source: ours."""
    blocks = _fitting(SUM_BLOCKS, x.shape[0])
    largest, smaller = blocks[0], blocks[::-1]
    starts = jnp.cumsum(group_sizes) - group_sizes
    x_padded, y_padded = (jnp.pad(a, ((0, largest), (0, 0))) for a in (x, y))

    def outer(at: Array, size: Array, *, block: int) -> Array:
        mine = (jnp.arange(block) < size)[:, None]  # on both sides: zero times what a later row holds could be NaN
        left, right = (
            jnp.where(mine, lax.dynamic_slice_in_dim(a, at, block), jnp.zeros((), a.dtype))
            for a in (x_padded, y_padded)
        )
        return _dot(left, right, 0, 0, options)

    def nothing(at: Array, size: Array) -> Array:
        return jnp.zeros((x.shape[1], y.shape[1]), options.accumulator)

    def one_group(_: None, group: tuple[Array, Array]) -> tuple[None, Array]:
        start, size = group
        count = size // largest
        left = size - count * largest
        at = start + count * largest
        branches: list[Callable[..., Array]] = [nothing, *(functools.partial(outer, block=block) for block in smaller)]
        total = lax.switch(jnp.searchsorted(jnp.array((0, *smaller)), left), branches, at, left)

        def add(i: Array, total: Array) -> Array:
            return total + outer(start + i * largest, jnp.int32(largest), block=largest)

        return None, lax.fori_loop(0, count, add, total).astype(options.dtype)

    return lax.scan(one_group, None, (starts, group_sizes))[1]


def _fitting(blocks: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """Blocks no larger than the rows; the smallest always."""
    return tuple(block for block in blocks if block <= max(rows, blocks[-1]))


def _dot(a: Array, b: Array, a_axis: int, b_axis: int, options: Options) -> Array:
    """The product over one axis of each, summed and returned in float32 at least."""
    wide = options.accumulator
    contract = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, contract, precision=options.precision, preferred_element_type=wide)
