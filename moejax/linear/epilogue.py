"""What may follow a product, row by row: the expert's own bias, then an activation.

Source: ours.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped
from moejax_kernels.activations import ACTIVATIONS, activate

from moejax.core.layouts import Buffers, Layout, Ragged

__all__ = ["ACTIVATIONS", "activate", "add_bias", "finish", "of_own_expert"]


def finish(x: Layout, bias: Float[Array, "E F"] | None, activation: str | None) -> Layout:
    """activation(x + bias), for leaves whose product does not end with it by itself. None leaves a part out."""
    biased = x if bias is None else add_bias(x, bias)
    return dataclasses.replace(biased, tokens=activate(biased.tokens, activation))


def add_bias(x: Layout, bias: Float[Array, "E F"]) -> Layout:
    """Each row plus its own expert's bias, in the dtype of x. Rows after the last group of a Ragged stay as they are."""
    bias = bias.astype(x.tokens.dtype)
    if isinstance(x, Ragged):
        return Ragged(x.tokens + of_own_expert(x, bias), x.group_sizes)
    return Buffers(x.tokens + bias[:, None, :])


def of_own_expert(x: Ragged, values: Shaped[Array, "E F"]) -> Shaped[Array, "M F"]:
    """For each row the values of its own expert; zero for rows after the last group."""
    rows = jnp.arange(x.tokens.shape[0])
    expert = jnp.searchsorted(jnp.cumsum(x.group_sizes), rows, side="right")
    return jnp.take(values, expert, axis=0, mode="fill", fill_value=0, indices_are_sorted=True)
