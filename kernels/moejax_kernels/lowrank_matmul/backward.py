"""The backward pass of the low-rank FFN in grouped products: for implementations that have no fused one of their own.

It holds the [M F] middle in memory, which a fused backward pass does not; it can be differentiated again.
Source: ours (the chain rule).
"""

import dataclasses
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
    same = options_of_pieces(options, x.dtype)
    wide = options_of_pieces(options, accumulator_of(x.dtype))

    def into(x: Array, factors: Factors) -> tuple[Array, Array]:
        middle = grouped.product(x, factors[0], None, group_sizes, False, None, same)
        return middle, grouped.product(middle, factors[1], None, group_sizes, False, None, wide)

    def back(x: Array, middle: Array, dy: Array, factors: Factors) -> tuple[Array, Factors]:
        d_middle = grouped.product(dy, factors[1], None, group_sizes, True, None, same)
        dx = grouped.product(d_middle, factors[0], None, group_sizes, True, None, wide)
        d_u = grouped.outer(x, d_middle, group_sizes, same)
        return dx, (d_u, grouped.outer(middle, dy, group_sizes, same))

    up_middle, value = into(x, up)
    gated: Array | None = None
    if gate is not None:
        gate_middle, gated = into(x, gate)
    hidden, pull = jax.vjp(lambda value, gated: join(value, gated, activation), value, gated)
    hidden = hidden.astype(x.dtype)
    down_middle = grouped.product(hidden, down[0], None, group_sizes, False, None, same)
    d_hidden, d_down = back(hidden, down_middle, dy, down)
    d_value, d_gated = pull(d_hidden)
    dx, d_up = back(x, up_middle, d_value.astype(x.dtype), up)
    if gate is None:
        return dx.astype(x.dtype), d_up, None, d_down
    more, d_gate = back(x, gate_middle, d_gated.astype(x.dtype), gate)
    return (dx + more).astype(x.dtype), d_up, d_gate, d_down


def join(value: Array, gated: Array | None, activation: str | None) -> Array:
    """activation(value), or with a gate activation(gated) * value."""
    return activate(value, activation) if gated is None else activate(gated, activation) * value


def options_of_pieces(options: Options, dtype: Any) -> Options:
    """Options for the grouped products that a backward pass is made of: their own tiling, the dtype given."""
    return dataclasses.replace(options, tiling=None, dtype=jnp.dtype(dtype))
