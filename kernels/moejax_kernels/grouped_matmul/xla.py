"""Grouped products from plain XLA operations whose cost does not grow with the number of groups.

A loop over groups multiplies each group's rows: in blocks of the largest size while they fit, then what is left in one block
of the smallest size on a ladder that holds it. One product per group wastes less than several small ones, each of which would
read (and on a CPU repack) the whole kernel again. The last block is written through a mask, so rows of other groups stay as
they are; full blocks need none. Which ladder is taken depends on the mean rows of a group, by a measured table (ladders.py).
Source: ours (measured against `lax.ragged_dot`, which on CPU multiplies every row by every kernel).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul.ladders import ladder_for
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.manual_axes import vary_like


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
    ladder = ladder_for(rows, group_sizes.shape[0], options.tiling)

    def one_group(out: Array, group: tuple[Any, Array, Array]) -> tuple[Array, None]:
        mine, start, size = group

        def whole(at: Array, out: Array) -> Array:
            result = body(lax.dynamic_slice_in_dim(x, at, ladder[-1]), mine)
            return lax.dynamic_update_slice_in_dim(out, result, at, 0)

        def last(at: Array, owned: Array, out: Array) -> Array:
            block = owned.shape[0]
            result = body(lax.dynamic_slice_in_dim(x, at, block), mine)
            result = jnp.where(owned[:, None], result, lax.dynamic_slice_in_dim(out, at, block))
            return lax.dynamic_update_slice_in_dim(out, result, at, 0)

        return walk(ladder, start, size, rows, whole, last, out), None

    starts = jnp.cumsum(group_sizes) - group_sizes
    out = vary_like(jnp.zeros((rows, width), options.dtype), x)
    if rows == 0:
        return out
    return lax.scan(one_group, out, (kernels, starts, group_sizes))[0]


def sum_of_outer(
    x: Float[Array, "M D"], y: Float[Array, "M F"], group_sizes: Int[Array, "E"], *, options: Options
) -> Float[Array, "E D F"]:
    """The sum of x[m] y[m] over the rows of each group, block by block. Source: ours."""
    rows = x.shape[0]
    ladder = ladder_for(rows, group_sizes.shape[0], options.tiling)
    starts = jnp.cumsum(group_sizes) - group_sizes
    out = vary_like(jnp.zeros((group_sizes.shape[0], x.shape[1], y.shape[1]), options.accumulator), x)
    if rows == 0:
        return out.astype(options.dtype)

    # The whole result is carried, so that a product lands in its place with one copy and no sum of its own.
    def one_group(group: Array, out: Array) -> Array:
        def whole(at: Array, out: Array) -> Array:
            left, right = (lax.dynamic_slice_in_dim(a, at, ladder[-1]) for a in (x, y))
            so_far = lax.dynamic_index_in_dim(out, group, keepdims=False)
            return lax.dynamic_update_index_in_dim(out, so_far + _dot(left, right, 0, 0, options), group, 0)

        def last(at: Array, owned: Array, out: Array) -> Array:
            # Masked on both sides: zero times what another row holds could be NaN. First of its group, so it need not add.
            left, right = (
                jnp.where(owned[:, None], lax.dynamic_slice_in_dim(a, at, owned.shape[0]), jnp.zeros((), a.dtype))
                for a in (x, y)
            )
            return lax.dynamic_update_index_in_dim(out, _dot(left, right, 0, 0, options), group, 0)

        return walk(ladder, starts[group], group_sizes[group], rows, whole, last, out, remainder_first=True)

    return lax.fori_loop(0, group_sizes.shape[0], one_group, out).astype(options.dtype)


def walk(
    ladder: tuple[int, ...],
    start: Array,
    size: Array,
    rows: int,
    whole: Callable[[Array, Any], Any],
    last: Callable[[Array, Array, Any], Any],
    carry: Any,
    *,
    remainder_first: bool = False,
) -> Any:
    """Carries `carry` through the blocks of one group: whole(at, carry) for each of ladder[-1] rows from `at`, all the group's,
    and last(at, owned [block], carry) for at most one block that holds what is left; `owned` marks the group's rows in it.

    Source: ours.
    """
    count = size // ladder[-1]
    left, end = size - count * ladder[-1], start + size

    def remainder(carry: Any) -> Any:
        smaller = 0
        for block in ladder:
            # A loop of no or one turn: a conditional would copy what it carries. The place depends on the turn, or XLA
            # would compute the block's product ahead of the loop, for every step of the ladder.
            def turn(i: Array, carry: Any, block: int = block) -> Any:
                at = jnp.minimum(end - left + i * block, rows - block)
                index = at + jnp.arange(block, dtype=at.dtype)
                return last(at, (index >= end - left) & (index < end), carry)

            taken = (left > smaller) & (left <= block)
            carry = lax.fori_loop(0, taken.astype(jnp.int32), turn, carry)
            smaller = block
        return carry

    if remainder_first:
        carry = remainder(carry)
    carry = lax.fori_loop(0, count, lambda i, carry: whole(start + i * ladder[-1], carry), carry)
    return carry if remainder_first else remainder(carry)


def _dot(a: Array, b: Array, a_axis: int, b_axis: int, options: Options) -> Array:
    """The product over one axis of each, summed and returned in float32 at least."""
    contract = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, contract, precision=options.precision, preferred_element_type=options.accumulator)
