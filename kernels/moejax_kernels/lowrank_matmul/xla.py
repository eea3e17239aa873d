"""Low-rank products from plain XLA operations, fused by blocks of rows: what lies between x and the result is [block, R] or
[block, F] and never reaches the size of the operands. The cost does not grow with the number of groups.

A loop over groups takes each group's rows in large blocks, and what is left in one smaller block that holds it; rows of that
one that are not the group's keep what the output has. The backward pass goes over the same blocks, computes the middle again
and sums the gradients of a group's factors over its blocks. Where ranks are given, a group's products are cut to the quarter,
half or whole of the stored components that holds its rank.
Source: ours.
Deviations: forward-mode differentiation is not defined, as for every `jax.custom_vjp`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from moejax_kernels.grouped_matmul.options import Options, accumulator_of
from moejax_kernels.lowrank_matmul.backward import chain_rule, join
from moejax_kernels.lowrank_matmul.xla_attention import attention, attention_backward
from moejax_kernels.lowrank_matmul.xla_blocks import add_corner, groups, over_group, row_blocks, write
from moejax_kernels.manual_axes import vary_like

__all__ = ["attention", "attention_backward", "ffn", "ffn_backward", "product"]

Factors = tuple[Array, Array]


def product(x: Array, u: Array, v: Array, group_sizes: Array, *, ranks: Array | None, options: Options) -> Array:
    """As `gradients.py` asks."""

    def compute(rows: Array, factors: Any) -> Array:
        return _through(rows, factors[0], options)

    return _by_rows(x, ((u, v),), group_sizes, (ranks,), v.shape[2], options, compute)


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
    """As `gradients.py` asks: [block, F] is the widest that is held."""

    def compute(rows: Array, factors: Any) -> Array:
        up, gate, down = factors
        value = _through(rows, up, options)
        gated = None if gate is None else _through(rows, gate, options)
        return _through(join(value, gated, activation).astype(x.dtype), down, options)

    return _by_rows(x, (up, gate, down), group_sizes, ranks, down[1].shape[2], options, compute)


def ffn_backward(
    x: Array,
    dy: Array,
    up: Factors,
    gate: Factors | None,
    down: Factors,
    group_sizes: Array,
    *,
    ranks: Any,
    activation: str | None,
    options: Options,
) -> tuple[Array, Factors, Factors | None, Factors]:
    """As `gradients.py` asks: one pass over the blocks, each of which computes its part of the forward pass again."""
    wide = accumulator_of(x.dtype)

    def times(rows: Array, kernel: Array, dtype: Any) -> Array:
        return _dot(rows, kernel, (1, 0), options).astype(dtype)

    def times_turned(rows: Array, kernel: Array, dtype: Any) -> Array:
        return _dot(rows, kernel, (1, 1), options).astype(dtype)

    def outer(left: Array, right: Array) -> Array:
        return _dot(left, right, (0, 0), options)

    def step(carry: Any, factors: Any, at: Array, block: int, mine: Array | None) -> Any:
        dx, sums = carry
        x_block, dy_block = (lax.dynamic_slice_in_dim(a, at, block) for a in (x, dy))
        if mine is not None:  # on both sides: zero times what another row holds could be NaN
            x_block, dy_block = (jnp.where(mine, a, jnp.zeros((), a.dtype)) for a in (x_block, dy_block))
        part, *found = chain_rule(x_block, dy_block, factors, activation, times, times_turned, outer)
        return write(dx, part, at, mine), jax.tree.map(add_corner, sums, tuple(found))

    blocks = row_blocks(options, x.shape[0], group_sizes.shape[0], ranks)

    def one_group(dx: Array, group: Any) -> tuple[Array, Any]:
        factors = group[0]
        sums = vary_like(jax.tree.map(lambda factor: jnp.zeros(factor.shape, wide), factors), x)
        dx, sums = over_group((dx, sums), group, ranks, blocks, x.shape[0], step)
        return dx, jax.tree.map(lambda total, factor: total.astype(factor.dtype), sums, factors)

    looped = groups((up, gate, down), group_sizes, ranks)
    dx, (d_up, d_gate, d_down) = lax.scan(one_group, vary_like(jnp.zeros_like(x), x), looped)
    return dx, d_up, d_gate, d_down


def _by_rows(
    x: Array,
    factors: tuple[Factors | None, ...],
    group_sizes: Array,
    ranks: tuple[Array | None, ...],
    width: int,
    options: Options,
    compute: Callable[[Array, Any], Array],
) -> Array:
    """compute(rows of a block, factors of its group) for all rows of groups; zero elsewhere."""

    def step(out: Array, factors: Any, at: Array, block: int, mine: Array | None) -> Array:
        return write(out, compute(lax.dynamic_slice_in_dim(x, at, block), factors), at, mine)

    blocks = row_blocks(options, x.shape[0], group_sizes.shape[0], ranks)

    def one_group(out: Array, group: Any) -> tuple[Array, None]:
        return over_group(out, group, ranks, blocks, x.shape[0], step), None

    out = vary_like(jnp.zeros((x.shape[0], width), options.dtype), x)
    return lax.scan(one_group, out, groups(factors, group_sizes, ranks))[0]


def _through(rows: Array, factors: Factors, options: Options) -> Array:
    middle = _dot(rows, factors[0], (1, 0), options).astype(rows.dtype)
    return _dot(middle, factors[1], (1, 0), options)


def _dot(a: Array, b: Array, axes: tuple[int, int], options: Options) -> Array:
    """The product of two matrices over one axis of each, summed in float32 at least."""
    contract = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, contract, precision=options.precision, preferred_element_type=accumulator_of(a.dtype))
