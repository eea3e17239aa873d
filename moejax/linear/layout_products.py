"""Steps that products of several factors are made of, over either layout of rows.

Source: ours.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.linear.epilogue import of_own_expert


def times_shared(x: Layout, kernel: Float[Array, "D F"]) -> Layout:
    """Every row times the one kernel, in the dtype of x. Zero rows stay zero."""
    return dataclasses.replace(x, tokens=x.tokens @ kernel.astype(x.tokens.dtype))


def only_owned(x: Layout) -> Layout:
    """Zeros for rows after the last group, also in the gradient: for products that no step by expert cuts."""
    if not isinstance(x, Ragged):
        return x
    owned = jnp.arange(x.tokens.shape[0]) < jnp.sum(x.group_sizes)
    return dataclasses.replace(x, tokens=jnp.where(owned[:, None], x.tokens, jnp.zeros_like(x.tokens)))


def times_own_scale(x: Layout, scale: Float[Array, "E D"]) -> Layout:
    """Every row times its own expert's scale, entry by entry, in the dtype of x; rows of nobody become zero."""
    scale = scale.astype(x.tokens.dtype)
    if isinstance(x, Ragged):
        return dataclasses.replace(x, tokens=x.tokens * of_own_expert(x, scale))
    return Buffers(x.tokens * scale[:, None, :])


def plus(x: Layout, y: Layout) -> Layout:
    """The sum of two results over the same rows."""
    return dataclasses.replace(x, tokens=x.tokens + y.tokens)


def split_rows(x: Layout, parts: int) -> Layout:
    """Every row [parts * width] as `parts` rows [width] that follow each other, of the same expert."""
    width = x.tokens.shape[-1] // parts
    if isinstance(x, Ragged):
        return Ragged(x.tokens.reshape(-1, width), x.group_sizes * jnp.asarray(parts, x.group_sizes.dtype))
    experts, slots = x.tokens.shape[:2]
    return Buffers(x.tokens.reshape(experts, slots * parts, width))


def join_rows(x: Layout, like: Layout, parts: int) -> Layout:
    """The inverse of `split_rows`: as many rows as `like` has, each of the `parts` rows it was split into, side by side."""
    return dataclasses.replace(like, tokens=x.tokens.reshape(*like.tokens.shape[:-1], parts * x.tokens.shape[-1]))
