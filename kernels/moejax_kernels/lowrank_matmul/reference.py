"""A loop over experts that computes every row with each and keeps the rows of that expert: what the others must equal."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moejax_kernels.grouped_matmul.options import Options, accumulator_of
from moejax_kernels.lowrank_matmul.backward import join


def product(x: Array, u: Array, v: Array, group_sizes: Array, *, ranks: Array | None, options: Options) -> Array:
    """As `gradients.py` asks. Source: ours."""
    del ranks
    return _per_expert(x, group_sizes, v.shape[2], options, lambda rows, e: _through(rows, (u[e], v[e]), options))


def ffn(
    x: Array, up: Any, gate: Any, down: Any, group_sizes: Array, *, ranks: Any, activation: str | None, options: Options
) -> Array:
    """As `gradients.py` asks. Source: ours."""
    del ranks

    def expert(rows: Array, e: int) -> Array:
        mine = jax.tree.map(lambda factor: factor[e], (up, gate, down))
        value = _through(rows, mine[0], options)
        gated = None if gate is None else _through(rows, mine[1], options)
        return _through(join(value, gated, activation).astype(x.dtype), mine[2], options)

    return _per_expert(x, group_sizes, down[1].shape[2], options, expert)


def attention(tokens: Any, factors: Any, *, causal: bool, options: Options) -> tuple[Array, Array]:
    """As `gradients.py` asks, with whole projections and whole score matrices. Source: ours."""
    dtype = tokens[0].dtype
    wide = accumulator_of(dtype)
    query, key, value = (
        jnp.einsum("BTR,HRK->BHTK", token, factor, precision=options.precision, preferred_element_type=wide).astype(
            dtype
        )
        for token, factor in zip(tokens, factors, strict=True)
    )
    scores = jnp.einsum("BHTK,BHSK->BHTS", query, key, precision=options.precision, preferred_element_type=wide)
    scores = scores / jnp.sqrt(jnp.asarray(query.shape[3], wide))
    if causal:
        seen = jnp.tril(jnp.ones(scores.shape[2:], bool))
        scores = jnp.where(seen[None, None], scores, -jnp.inf)
    logsumexp = jax.nn.logsumexp(scores, axis=3)
    weights = jnp.exp(scores - logsumexp[..., None]).astype(dtype)
    out = jnp.einsum("BHTS,BHSN->BTHN", weights, value, precision=options.precision, preferred_element_type=wide)
    return out.reshape(*out.shape[:2], -1).astype(options.dtype), logsumexp.astype(jnp.float32)


def _per_expert(
    x: Array, group_sizes: Array, width: int, options: Options, expert: Callable[[Array, int], Array]
) -> Array:
    ends = jnp.cumsum(group_sizes)
    row = jnp.arange(x.shape[0], dtype=ends.dtype)
    out = jnp.zeros((x.shape[0], width), options.dtype)
    for e in range(group_sizes.shape[0]):
        mine = ((row >= ends[e] - group_sizes[e]) & (row < ends[e]))[:, None]
        rows = jnp.where(mine, x, jnp.zeros((), x.dtype))
        out = jnp.where(mine, expert(rows, e).astype(options.dtype), out)
    return out


def _through(rows: Array, factors: Any, options: Options) -> Array:
    wide = accumulator_of(rows.dtype)
    middle = jnp.dot(rows, factors[0], precision=options.precision, preferred_element_type=wide).astype(rows.dtype)
    return jnp.dot(middle, factors[1], precision=options.precision, preferred_element_type=wide)
