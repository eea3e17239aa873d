"""The gradients of low-rank products, the same for every implementation.

An implementation is a module of this folder with three functions, none of which needs a gradient of its own. A pair of
factors is (u [E D R], v [E R F]):
  product(x [M D], u, v, group_sizes [E], *, ranks [E] | None, options) -> [M F]
  ffn(x [M D], up, gate | None, down, group_sizes [E], *, ranks, activation, options) -> [M O]
      with down (u [E F S], v [E S O]) and ranks a triple for (up, gate, down), each [E] or None
  attention(tokens, factors, *, causal, options) -> (out [B T H*N], logsumexp [B H T] float32)
      with tokens a triple (query [B T R], key, value: each with its own R) in rank space and factors a triple
      ([H R K], [H R K], [H R N]); scores are divided by sqrt(K)
and, where it has them (else the portable ones of backward.py and xla_attention.py serve):
  ffn_backward(x, dy [M O], up, gate | None, down, group_sizes, *, ranks, activation, options) -> (dx, d_up, d_gate, d_down)
  attention_backward(tokens, factors, out, logsumexp, dy [B T H*N], *, causal, options) -> (d_tokens, d_factors)
Gradients have the dtypes of what they belong to, d_gate is None without a gate.

What an implementation may rely on: sizes are non-negative int32 and sum to at most M. Columns of u and rows of v beyond
ranks[e] are ZERO when they arrive (cut here, once, which is also what makes their gradients exactly zero), so `ranks`
(int32, within 0 and R) need not be looked at: it tells how much work may be skipped.
What it owes: rows after the last group are zero in the output and in dx, and what they hold in x and dy (NaN too) reaches
nothing; an empty group's gradients are exactly zero; any M, D, R, F, E >= 1 (no rows are dealt with here). Products are summed in float32 at least;
activations are taken in float32; what enters the next product (x u, the activated middle, dz) is rounded to the dtype of x.
Source: ours.
Deviations: forward-mode differentiation is not defined, as for every `jax.custom_vjp`.
"""

import dataclasses
import functools
import importlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moejax_kernels.grouped_matmul import gradients as grouped
from moejax_kernels.grouped_matmul.options import Options
from moejax_kernels.lowrank_matmul import backward, xla_attention
from moejax_kernels.manual_axes import vary_alike

Factors = tuple[Array, Array]


def product(x: Array, factors: Factors, group_sizes: Array, ranks: Array | None, options: Options) -> Array:
    """(x u[e]) v[e], differentiable."""
    if x.shape[0] == 0:
        return jnp.zeros((0, factors[1].shape[2]), options.dtype)
    x, factors, group_sizes, ranks = vary_alike((x, factors, group_sizes, ranks))
    (u, v), ranks = cut_factors(factors, ranks)
    return _product(x, u, v, grouped.cut_sizes(group_sizes, x.shape[0]), ranks, options)


def ffn(
    x: Array,
    up: Factors,
    gate: Factors | None,
    down: Factors,
    group_sizes: Array,
    ranks: tuple[Array | None, Array | None, Array | None],
    activation: str | None,
    options: Options,
) -> Array:
    """activation(x up) down, or activation(x gate) * (x up) down, differentiable."""
    if x.shape[0] == 0:
        return jnp.zeros((0, down[1].shape[2]), options.dtype)
    x, up, gate, down, group_sizes, ranks = vary_alike((x, up, gate, down, group_sizes, ranks))
    cut = [(None, None) if pair is None else cut_factors(pair, rank) for pair, rank in zip((up, gate, down), ranks)]
    (up, gate, down), ranks = zip(*cut)
    return _ffn(x, up, gate, down, grouped.cut_sizes(group_sizes, x.shape[0]), ranks, activation, options)


def attention(tokens: Any, factors: Any, causal: bool, options: Options) -> Array:
    """Softmax attention of projections tokens[i] factors[i], differentiable: [B T H*N]."""
    (batch, length, _), (heads, _, width) = tokens[2].shape, factors[2].shape
    if batch * length == 0:
        return jnp.zeros((batch, length, heads * width), options.dtype)
    return _attention(*vary_alike((tokens, factors)), causal, options)


def backend(options: Options) -> ModuleType:
    """The module of an implementation, imported when it is first asked for."""
    return importlib.import_module(f"moejax_kernels.lowrank_matmul.{options.implementation}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _product(x, u, v, group_sizes, ranks, options):
    return backend(options).product(x, u, v, group_sizes, ranks=ranks, options=options)


def _product_forward(x, u, v, group_sizes, ranks, options):
    return _product(x, u, v, group_sizes, ranks, options), (x, u, v, group_sizes)


def _product_backward(options, saved, dy):
    x, u, v, group_sizes = saved
    same = backward.options_of_pieces(options, x.dtype)
    dy = dy.astype(x.dtype)
    middle = grouped.product(x, u, None, group_sizes, False, None, same)
    d_middle = grouped.product(dy, v, None, group_sizes, True, None, same)
    dx = grouped.product(d_middle, u, None, group_sizes, True, None, same)
    return dx, grouped.outer(x, d_middle, group_sizes, same), grouped.outer(middle, dy, group_sizes, same), None, None


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _ffn(x, up, gate, down, group_sizes, ranks, activation, options):
    return backend(options).ffn(x, up, gate, down, group_sizes, ranks=ranks, activation=activation, options=options)


def _ffn_forward(x, up, gate, down, group_sizes, ranks, activation, options):
    saved = (x, up, gate, down, group_sizes, ranks)
    return _ffn(x, up, gate, down, group_sizes, ranks, activation, options), saved


def _ffn_backward(activation, options, saved, dy):
    x, up, gate, down, group_sizes, ranks = saved
    turned = dataclasses.replace(options, dtype=x.dtype)
    found = _ffn_gradients(x, dy.astype(x.dtype), up, gate, down, group_sizes, ranks, activation, turned)
    return *found, None, None


_ffn.defvjp(_ffn_forward, _ffn_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _ffn_gradients(x, dy, up, gate, down, group_sizes, ranks, activation, options):
    function = getattr(backend(options), "ffn_backward", backward.ffn_backward)
    return function(x, dy, up, gate, down, group_sizes, ranks=ranks, activation=activation, options=options)


def _ffn_gradients_forward(x, dy, up, gate, down, group_sizes, ranks, activation, options):
    saved = (x, dy, up, gate, down, group_sizes)
    return _ffn_gradients(x, dy, up, gate, down, group_sizes, ranks, activation, options), saved


def _ffn_gradients_backward(activation, options, saved, cotangents):
    *operands, group_sizes = saved

    def portable(x, dy, up, gate, down):
        return backward.ffn_backward(
            x, dy, up, gate, down, group_sizes, ranks=None, activation=activation, options=options
        )

    return *jax.vjp(portable, *operands)[1](cotangents), None, None


_ffn_gradients.defvjp(_ffn_gradients_forward, _ffn_gradients_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attention(tokens, factors, causal, options):
    return backend(options).attention(tokens, factors, causal=causal, options=options)[0]


def _attention_forward(tokens, factors, causal, options):
    out, logsumexp = backend(options).attention(tokens, factors, causal=causal, options=options)
    return out, (tokens, factors, out, logsumexp)


def _attention_backward(causal, options, saved, dy):
    tokens, factors, out, logsumexp = saved
    function = getattr(backend(options), "attention_backward", xla_attention.attention_backward)
    return function(tokens, factors, out, logsumexp, dy, causal=causal, options=options)


_attention.defvjp(_attention_forward, _attention_backward)


def cut_factors(factors: Factors, ranks: Array | None) -> tuple[Factors, Array | None]:
    """Zeros beyond each rank, and the ranks as int32 within 0 and R."""
    u, v = factors
    if ranks is None:
        return (u, v), None
    present = jnp.arange(u.shape[2], dtype=jnp.int32)[None, :] < ranks.astype(jnp.int32)[:, None]  # [E R]
    u = jnp.where(present[:, None, :], u, jnp.zeros((), u.dtype))
    v = jnp.where(present[:, :, None], v, jnp.zeros((), v.dtype))
    return (u, v), jnp.clip(ranks.astype(jnp.int32), 0, u.shape[2])
