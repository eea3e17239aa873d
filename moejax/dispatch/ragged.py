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

PLANS = (TokenChoice,)


def dispatch(plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply) -> Float[Array, "G S D"]:
    """Sort, compute, unsort. All groups are one batch of at most G S K rows. The output has the dtype of x."""
    assert isinstance(plan, TokenChoice)
    groups, tokens, choices = plan.expert.shape
    served = plan.expert >= 0 if plan.capacity is None else served_slots(plan) >= 0
    expert = jnp.where(served, plan.expert, plan.num_experts).reshape(-1)  # the choices not served come last
    group_sizes = jnp.zeros(plan.num_experts, jnp.int32).at[expert].add(1, mode="drop")
    order = jnp.argsort(expert, stable=True)
    row_of_choice = jnp.zeros_like(order).at[order].set(jnp.arange(order.size), unique_indices=True)
    if plan.capacity is not None:
        order = order[: min(order.size, groups * plan.num_experts * plan.capacity)]
    owned = jnp.arange(order.size) < jnp.sum(group_sizes)
    token = jnp.where(owned, order // choices, groups * tokens)  # out of range: a row of zeros
    rows = jnp.take(x.reshape(groups * tokens, -1), token, axis=0, mode="fill", fill_value=0)
    y = apply(params, Ragged(rows, group_sizes)).tokens
    row_of_choice = jnp.where(served.reshape(-1), row_of_choice, order.size)
    chosen = jnp.take(y, row_of_choice, axis=0, mode="fill", fill_value=0).reshape(groups, tokens, choices, -1)
    combined = jnp.einsum("GSK,GSKD->GSD", plan.weight.astype(jnp.float32), chosen.astype(jnp.float32))
    return combined.astype(x.dtype)
