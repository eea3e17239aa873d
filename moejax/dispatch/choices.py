"""Rows and the choices that they carry: both ways by index, so that neither direction nor its gradient scatters.

A choice is one (token, k) pair, counted row-major over [T K]; a row is one line of what the experts compute on. Each choice
lies in at most one row and each row holds at most one choice, so the gradient of a gather is the opposite gather.
Indices out of range (the number of rows, of choices) mean 'none': zeros come from there.
Source: ours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.custom_vjp
def rows_of_tokens(
    x: Float[Array, "T D"], choice_of_row: Int[Array, "M"], row_of_choice: Int[Array, "T K"]
) -> Float[Array, "M D"]:
    """Row m holds the token of its choice; zeros where it holds none."""
    tokens, choices = row_of_choice.shape
    held = choice_of_row < tokens * choices
    return _take(x, jnp.where(held, choice_of_row // choices, tokens))


def _rows_forward(x, choice_of_row, row_of_choice):
    return rows_of_tokens(x, choice_of_row, row_of_choice), row_of_choice


def _rows_backward(row_of_choice, d_rows):
    gathered = _take(d_rows, row_of_choice)
    return jnp.sum(gathered, axis=1, dtype=jnp.float32).astype(d_rows.dtype), None, None


rows_of_tokens.defvjp(_rows_forward, _rows_backward)


@jax.custom_vjp
def combine_rows(
    rows: Float[Array, "M D"],
    weight: Float[Array, "T K"],
    choice_of_row: Int[Array, "M"],
    row_of_choice: Int[Array, "T K"],
) -> Float[Array, "T D"]:
    """Each token's rows, weighted and summed over its choices in float32; float32 out."""
    gathered = _take(rows, row_of_choice).astype(jnp.float32)
    return jnp.sum(gathered * weight.astype(jnp.float32)[:, :, None], axis=1)


def _combine_forward(rows, weight, choice_of_row, row_of_choice):
    return combine_rows(rows, weight, choice_of_row, row_of_choice), (rows, weight, choice_of_row, row_of_choice)


def _combine_backward(saved, d_out):
    rows, weight, choice_of_row, row_of_choice = saved
    tokens, choices = weight.shape
    held = choice_of_row < tokens * choices
    token = jnp.where(held, choice_of_row // choices, tokens)
    weight_of_row = _take(weight.astype(jnp.float32).reshape(-1, 1), choice_of_row)
    d_rows = (_take(d_out, token) * weight_of_row).astype(rows.dtype)
    gathered = _take(rows, row_of_choice).astype(jnp.float32)
    d_weight = jnp.sum(gathered * d_out[:, None, :], axis=-1).astype(weight.dtype)
    return d_rows, d_weight, None, None


combine_rows.defvjp(_combine_forward, _combine_backward)


def _take(rows: Array, index: Array) -> Array:
    """rows[index], zeros where the index is the number of rows or more."""
    return jnp.take(rows, index, axis=0, mode="fill", fill_value=0)
