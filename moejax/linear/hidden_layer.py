"""Two leaves with a hidden layer between them: what an expert computes.

Low-rank leaves on both sides go through one product that never writes the hidden width to memory, where that is much.
Source: Shazeer 2020, "GLU Variants Improve Transformer", equations 1 and 6; the fused product: FlashSVD.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from moejax_kernels.lowrank_matmul import batched_lowrank_ffn, grouped_lowrank_ffn

from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.linear.epilogue import add_bias
from moejax.linear.gated import gated
from moejax.linear.low_rank import LowRank

# Numbers of the hidden rows from which the fused product is taken: below, they fit a cache.
LEAST_FUSED = 2**18


def hidden_layer(
    up: Any,
    down: Any,
    x: Layout,
    *,
    up_bias: Float[Array, "E F"] | None = None,
    down_bias: Float[Array, "E D"] | None = None,
    activation: str | None,
) -> Layout:
    """Each row through its own expert: activation(x up + up_bias) down + down_bias, in the dtype of x."""
    if _fits(x, up, down):
        out = _fused(up, down, x, up_bias=up_bias, activation=activation)
        return out if down_bias is None else add_bias(out, down_bias)
    return down.grouped_matmul(up.grouped_matmul(x, bias=up_bias, activation=activation), bias=down_bias)


def gated_hidden_layer(gate: Any, up: Any, down: Any, x: Layout, *, activation: str | None = "silu") -> Layout:
    """Each row through its own expert: (activation(x gate) * (x up)) down, in the dtype of x."""
    if _fits(x, up, down, gate):
        return _fused(up, down, x, gate=gate, activation=activation)
    return down.grouped_matmul(gated(gate, up, x, activation=activation))


def _fits(x: Layout, up: Any, *others: Any) -> bool:
    """Whether the fused product serves these leaves and is worth it.

    Not for buffers of several experts: XLA copies all their factors into a loop over experts, more than hidden rows take
    (measured: 74 MB where two products hold 8, in a V-MoE of width 512 with 8 experts).
    """
    if isinstance(x, Buffers) and x.tokens.shape[0] > 1:
        return False
    if not all(isinstance(leaf, LowRank) for leaf in (up, *others)):
        return False
    return x.tokens.size // x.tokens.shape[-1] * up.v.shape[-1] >= LEAST_FUSED


def _fused(
    up: LowRank,
    down: LowRank,
    x: Layout,
    *,
    gate: LowRank | None = None,
    up_bias: Float[Array, "E F"] | None = None,
    activation: str | None,
) -> Layout:
    dtype = x.tokens.dtype
    told: dict[str, Any] = {
        "gate": None if gate is None else _factors(gate, dtype),
        "up_bias": None if up_bias is None else up_bias.astype(dtype),
        "up_ranks": _ranks(up),
        "gate_ranks": None if gate is None else _ranks(gate),
        "down_ranks": _ranks(down),
    }
    factors = _factors(up, dtype), _factors(down, dtype)
    if isinstance(x, Ragged):
        rows = grouped_lowrank_ffn(x.tokens, *factors, x.group_sizes, activation=activation, **told)
        return dataclasses.replace(x, tokens=rows)
    return Buffers(batched_lowrank_ffn(x.tokens, *factors, activation=activation, **told))


def _factors(leaf: LowRank, dtype: Any) -> tuple[Array, Array]:
    return leaf.u.astype(dtype), leaf.v.astype(dtype)


def _ranks(leaf: LowRank) -> Int[Array, "E"] | None:
    return None if leaf.ranks is None else jnp.asarray(leaf.ranks, jnp.int32)
