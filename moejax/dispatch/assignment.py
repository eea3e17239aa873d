"""Which choices of a plan are really served, and where their tokens lie in the experts' buffers.

Source: ours; the service order is V-MoE's (Riquelme et al. 2021, Algorithms 1 and 2).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.core.plans import ExpertChoice, Merge, Plan, SlotMix, TokenChoice


def served_slots(plan: TokenChoice) -> Int[Array, "G S K"]:
    """The slot of each choice in its expert's buffer of the group, counted from 0; -1 where the choice is not served.

    First choices of all tokens come before second choices; within a choice higher priority first, ties and plans
    without priority by position. Found by sorting: O(S K log(S K)) per group, nothing of size E.
    """
    groups, tokens, choices = plan.expert.shape
    in_order = plan.expert
    if plan.priority is not None:
        order = jnp.argsort(-plan.priority, axis=1, stable=True)  # served i-th -> token
        in_order = jnp.take_along_axis(plan.expert, order[:, :, None], axis=1)
    # Choices in service order, sorted by expert: the rank within a run of equal experts is the slot.
    wanted = jnp.swapaxes(in_order, 1, 2).reshape(groups, choices * tokens)
    by_expert = jnp.argsort(wanted, axis=1, stable=True)
    runs = jnp.take_along_axis(wanted, by_expert, axis=1)
    index = jnp.broadcast_to(jnp.arange(choices * tokens, dtype=jnp.int32), runs.shape)
    starts_run = jnp.concatenate([jnp.ones((groups, 1), bool), runs[:, 1:] != runs[:, :-1]], axis=1)
    rank = index - jax.lax.cummax(jnp.where(starts_run, index, 0), axis=1)
    slot = _inverse_take(rank, by_expert)
    slot = jnp.swapaxes(slot.reshape(groups, choices, tokens), 1, 2)
    if plan.priority is not None:
        slot = _inverse_take(slot, order)
    served = plan.expert >= 0
    if plan.capacity is not None:
        served &= slot < plan.capacity
    return jnp.where(served, slot, -1)


def buffer_capacity(plan: TokenChoice) -> int:
    """Slots per expert and group: the plan's, or for a dropless plan S, which always suffices."""
    return plan.expert.shape[1] if plan.capacity is None else plan.capacity


def realised(plan: Plan, *, num_tokens: int) -> Float[Array, "G S E"]:
    """Combine weight of each (token, expert) as it is after capacity, float32; 0 where nothing is computed.

    Slot mixtures: summed over the expert's slots. Merged experts: the group's weights, the same for every token.
    """
    if isinstance(plan, TokenChoice):
        groups, tokens, _ = plan.expert.shape
        expert = jnp.where(served_slots(plan) >= 0, plan.expert, plan.num_experts)  # out of range: left out
        at = (jnp.arange(groups)[:, None, None], jnp.arange(tokens)[None, :, None], expert)
        zeros = jnp.zeros((groups, tokens, plan.num_experts), jnp.float32)
        return zeros.at[at].add(plan.weight.astype(jnp.float32), mode="drop")
    if isinstance(plan, ExpertChoice):
        groups, experts, _ = plan.token.shape
        at = (jnp.arange(groups)[:, None, None], plan.token, jnp.arange(experts)[None, :, None])
        return jnp.zeros((groups, num_tokens, experts), jnp.float32).at[at].add(plan.weight.astype(jnp.float32))
    if isinstance(plan, SlotMix):
        return jnp.sum(plan.combine.astype(jnp.float32), axis=-1)
    assert isinstance(plan, Merge)
    groups, experts = plan.weight.shape
    return jnp.broadcast_to(plan.weight.astype(jnp.float32)[:, None, :], (groups, num_tokens, experts))


def _inverse_take(values: Array, order: Array) -> Array:
    """`out` with out[g, order[g, i]] = values[g, i]."""
    return jnp.zeros_like(values).at[jnp.arange(values.shape[0])[:, None], order].set(values, unique_indices=True)
