"""Tokens move by index: no tensor of size (G, S, E, C) exists.

Source: ours.
Deviations: a dropless token choice gets buffers of S slots, enough for any choice of distinct experts, at E/K times
    the arithmetic of `ragged`.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.plans import ExpertChoice, Plan, TokenChoice
from moejax.dispatch.assignment import buffer_capacity, served_slots
from moejax.dispatch.buffers import Apply, through_experts
from moejax.dispatch.choices import combine_rows, rows_of_tokens

PLANS = (TokenChoice, ExpertChoice)


def dispatch(plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply) -> Float[Array, "G S F"]:
    """Tokens to slots, through the experts, and back. The output has the dtype of x; sums are taken in float32."""
    if isinstance(plan, ExpertChoice):
        return _expert_choice(plan, x, params, apply)
    assert isinstance(plan, TokenChoice)
    return _token_choice(plan, x, params, apply)


def _token_choice(plan: TokenChoice, x: Array, params: Any, apply: Apply) -> Array:
    groups, tokens, choices = plan.expert.shape
    capacity = buffer_capacity(plan)
    num_slots = plan.num_experts * capacity
    slot = served_slots(plan)
    first = jnp.arange(groups)[:, None, None] * num_slots  # slots of all groups lie behind each other
    row = jnp.where(slot >= 0, first + plan.expert * capacity + slot, groups * num_slots)  # out of range: not served
    row_of_choice = row.reshape(-1, choices)
    none = jnp.full((groups * num_slots,), row.size, row.dtype)
    choice_of_row = none.at[row.reshape(-1)].set(jnp.arange(row.size, dtype=row.dtype), mode="drop")
    rows = rows_of_tokens(x.reshape(groups * tokens, -1), choice_of_row, row_of_choice)
    y = through_experts(rows.reshape(groups, plan.num_experts, capacity, -1), params, apply)
    y = y.reshape(groups * num_slots, -1)
    combined = combine_rows(y, plan.weight.reshape(-1, choices), choice_of_row, row_of_choice)
    return combined.reshape(groups, tokens, -1).astype(x.dtype)


def _expert_choice(plan: ExpertChoice, x: Array, params: Any, apply: Apply) -> Array:
    groups, experts, capacity = plan.token.shape
    token = plan.token.reshape(groups, -1)
    y = through_experts(_take(x, token).reshape(groups, experts, capacity, -1), params, apply)
    y = y.astype(jnp.float32) * plan.weight.astype(jnp.float32)[..., None]
    y = y.reshape(groups, experts * capacity, -1)
    zeros = jnp.zeros((groups, x.shape[1], y.shape[-1]), jnp.float32)
    return zeros.at[jnp.arange(groups)[:, None], token].add(y).astype(x.dtype)


def _take(rows: Array, index: Array) -> Array:
    """rows[g, index[g, i]], zero where the index is out of range."""
    return jnp.take_along_axis(rows, index[:, :, None], axis=1, mode="fill", fill_value=0)
