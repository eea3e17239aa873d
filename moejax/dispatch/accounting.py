"""What a plan costs and leaves undone, as metrics.

Source: ours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.plans import ExpertChoice, Merge, Plan, SlotMix, TokenChoice
from moejax.dispatch.assignment import served_slots


def plan_metrics(plan: Plan, *, num_tokens: int) -> dict[str, Float[Array, "..."]]:
    """Accounting of a plan over groups of `num_tokens` tokens, float32, without gradient.

    dropped: fraction of the tokens' choices that no expert serves for want of capacity (0 for plans whose tokens choose nothing).
    unserved: fraction of tokens that no expert processes.
    padding: fraction of buffer slots computed without a token (0 for dropless plans, as `ragged` computes them).
    capacity: slots per expert and group that hold a token, on average (merged experts: all S tokens of the group).
    dead_experts: fraction of experts without a token in the whole batch.
    served_load [E]: share of the served (token, expert) pairs that each expert serves (merged experts: mean weight).
    """
    plan = jax.lax.stop_gradient(plan)
    if isinstance(plan, TokenChoice):
        return _token_choice(plan)
    if isinstance(plan, ExpertChoice):
        groups, experts, slots = plan.token.shape
        chosen = jnp.zeros((groups, num_tokens), bool)
        chosen = chosen.at[jnp.arange(groups)[:, None, None], plan.token].set(True)
        return _metrics(jnp.full((groups, experts), slots, jnp.float32), slots, chosen)
    if isinstance(plan, SlotMix):
        mixed = plan.dispatch != 0
        filled = jnp.sum(jnp.any(mixed, axis=1).astype(jnp.float32), axis=-1)
        return _metrics(filled, plan.dispatch.shape[3], jnp.any(mixed, axis=(2, 3)))
    assert isinstance(plan, Merge)
    weight = plan.weight.astype(jnp.float32)
    metrics = _metrics(weight, None, jnp.ones((weight.shape[0], num_tokens), bool))
    return metrics | {"capacity": jnp.float32(num_tokens)}


def _token_choice(plan: TokenChoice) -> dict[str, Array]:
    served = served_slots(plan) >= 0
    group = jnp.arange(plan.expert.shape[0])[:, None, None]
    filled = jnp.zeros((plan.expert.shape[0], plan.num_experts), jnp.float32)
    filled = filled.at[group, jnp.where(served, plan.expert, plan.num_experts)].add(1.0, mode="drop")
    made = jnp.sum((plan.expert >= 0).astype(jnp.float32))
    dropped = (made - jnp.sum(filled)) / jnp.maximum(made, 1.0)
    return _metrics(filled, plan.capacity, jnp.any(served, axis=-1)) | {"dropped": dropped}


def _metrics(filled: Float[Array, "G E"], slots: int | None, served: Array) -> dict[str, Array]:
    """From the filled slots per group and expert, the slots there are (None: as many as filled), and served tokens."""
    total = jnp.sum(filled)
    per_expert = jnp.sum(filled, axis=0)
    zero = jnp.float32(0)
    return {
        "dropped": zero,
        "unserved": jnp.mean((~served).astype(jnp.float32)),
        "padding": zero if slots is None else (filled.size * slots - total) / (filled.size * slots),
        "capacity": jnp.mean(filled),
        "dead_experts": jnp.mean((per_expert == 0).astype(jnp.float32)),
        "served_load": per_expert / jnp.where(total == 0, 1.0, total),
    }
