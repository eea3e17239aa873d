"""Tokens are sorted by expert and computed as one ragged batch: no padding, no drops unless the plan has a capacity.

Source: Gale et al. 2022, "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts", section 5.
Deviations: rows are not padded to blocks; a plan with a capacity leaves out the choices that it drops.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Ragged
from moejax.core.plans import Plan, TokenChoice
from moejax.dispatch.assignment import served_slots
from moejax.dispatch.buffers import Apply
from moejax.dispatch.choices import combine_rows, rows_of_tokens

PLANS = (TokenChoice,)


def dispatch(plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply) -> Float[Array, "G S F"]:
    """Sort, compute, unsort. All groups are one batch of at most G S K rows. The output has the dtype of x."""
    assert isinstance(plan, TokenChoice)
    groups, tokens, choices = plan.expert.shape
    served = plan.expert >= 0 if plan.capacity is None else served_slots(plan) >= 0
    expert = jnp.where(served, plan.expert, plan.num_experts).reshape(-1)  # the choices not served come last
    choice_of_row = jnp.argsort(expert, stable=True)
    row_of_choice = (
        jnp.zeros_like(choice_of_row)
        .at[choice_of_row]
        .set(jnp.arange(expert.size, dtype=choice_of_row.dtype), unique_indices=True)
    )
    ends = jnp.searchsorted(jnp.take(expert, choice_of_row), jnp.arange(plan.num_experts), side="right")
    group_sizes = jnp.diff(ends, prepend=0).astype(jnp.int32)
    if plan.capacity is not None:
        choice_of_row = choice_of_row[: min(expert.size, groups * plan.num_experts * plan.capacity)]
    owned = jnp.arange(choice_of_row.size) < ends[-1]
    choice_of_row = jnp.where(owned, choice_of_row, expert.size)
    row_of_choice = jnp.where(served.reshape(-1), row_of_choice, choice_of_row.size).reshape(-1, choices)
    rows = rows_of_tokens(x.reshape(groups * tokens, -1), choice_of_row, row_of_choice)
    y = apply(params, Ragged(rows, group_sizes)).tokens
    combined = combine_rows(y, plan.weight.reshape(-1, choices), choice_of_row, row_of_choice)
    return combined.reshape(groups, tokens, -1).astype(x.dtype)
