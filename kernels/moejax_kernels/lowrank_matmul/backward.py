"""The backward pass of the low-rank FFN in grouped products: for implementations that have no fused one of their own.

It holds the [M F] middle in memory, which a fused backward pass does not; it can be differentiated again.
Source: ours (the chain rule).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moejax_kernels.activations import activate
from moejax_kernels.grouped_matmul import gradients as grouped
from moejax_kernels.grouped_matmul.options import Options, accumulator_of

Factors = tuple[Array, Array]


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
    """Gradients (dx, d_up, d_gate, d_down) of the FFN whose output has the cotangent dy [M O]."""
    del ranks

    def times(rows: Array, kernel: Array, dtype: Any) -> Array:
        return grouped.product(rows, kernel, None, group_sizes, False, None, options_of_pieces(options, dtype))

    def times_turned(rows: Array, kernel: Array, dtype: Any) -> Array:
        return grouped.product(rows, kernel, None, group_sizes, True, None, options_of_pieces(options, dtype))

    def outer(left: Array, right: Array) -> Array:
        return grouped.outer(left, right, group_sizes, options_of_pieces(options, x.dtype))

    dx, d_up, d_gate, d_down = chain_rule(x, dy, (up, gate, down), activation, times, times_turned, outer)
    return dx.astype(x.dtype), d_up, d_gate, d_down


def chain_rule(
    x: Array,
    dy: Array,
    factors: tuple[Factors, Factors | None, Factors],
    activation: str | None,
    times: Callable[[Array, Array, Any], Array],
    times_turned: Callable[[Array, Array, Any], Array],
    outer: Callable[[Array, Array], Array],
) -> tuple[Array, Factors, Factors | None, Factors]:
    """Gradients of the FFN in terms of three products, that of x in float32 at least.

    times(rows, kernel, dtype): rows kernel; times_turned: rows kernel^T; outer(left, right): left^T right. Source: ours.
    """
    up, gate, down = factors
    wide = accumulator_of(x.dtype)

    def into(x: Array, pair: Factors) -> tuple[Array, Array]:
        middle = times(x, pair[0], x.dtype)
        return middle, times(middle, pair[1], wide)

    def back(x: Array, middle: Array, dy: Array, pair: Factors) -> tuple[Array, Factors]:
        d_middle = times_turned(dy, pair[1], x.dtype)
        return times_turned(d_middle, pair[0], wide), (outer(x, d_middle), outer(middle, dy))

    up_middle, value = into(x, up)
    gated: Array | None = None
    if gate is not None:
        gate_middle, gated = into(x, gate)
    hidden, pull = jax.vjp(lambda value, gated: join(value, gated, activation), value, gated)
    hidden = hidden.astype(x.dtype)
    d_hidden, d_down = back(hidden, times(hidden, down[0], x.dtype), dy, down)
    d_value, d_gated = pull(d_hidden)
    dx, d_up = back(x, up_middle, d_value.astype(x.dtype), up)
    if gate is None:
        return dx, d_up, None, d_down
    more, d_gate = back(x, gate_middle, d_gated.astype(x.dtype), gate)
    return dx + more, d_up, d_gate, d_down


def join(value: Array, gated: Array | None, activation: str | None) -> Array:
    """activation(value), or with a gate activation(gated) * value."""
    return activate(value, activation) if gated is None else activate(gated, activation) * value


def options_of_pieces(options: Options, dtype: Any) -> Options:
    """Options for the grouped products that a backward pass is made of: their own tiling, the dtype given."""
    return dataclasses.replace(options, tiling=None, dtype=jnp.dtype(dtype))
