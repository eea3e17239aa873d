"""Tokens move by two products with (G, S, E, C) tensors: simple, and linear in the weights of a slot mixture.

Source: Lepikhin et al. 2020, "GShard", Algorithm 2, and Puigcerver et al. 2024 (Soft MoE), section 2.1.
Deviations: a dropless token choice gets buffers of S slots, enough for any choice of distinct experts.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.plans import ExpertChoice, Plan, SlotMix, TokenChoice
from moejax.dispatch.assignment import buffer_capacity, served_slots
from moejax.dispatch.buffers import Apply, through_experts

PLANS = (TokenChoice, ExpertChoice, SlotMix)


def dispatch(plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply) -> Float[Array, "G S F"]:
    """Tokens to slots, through the experts, and back. The output has the dtype of x; sums are taken in float32."""
    into, out_of = _tensors(plan, x.shape[1])
    slots = jnp.einsum("GSEC,GSD->GECD", into.astype(x.dtype), x)
    y = through_experts(slots, params, apply)
    combined = jnp.einsum("GSEC,GECD->GSD", out_of.astype(jnp.float32), y.astype(jnp.float32))
    return combined.astype(x.dtype)


def _tensors(plan: Plan, tokens: int) -> tuple[Array, Array]:
    """The dispatch and the combine tensor, both [G S E C]."""
    if isinstance(plan, SlotMix):
        return plan.dispatch, plan.combine
    if isinstance(plan, ExpertChoice):
        chosen = jax.nn.one_hot(plan.token, tokens, axis=1, dtype=jnp.float32)  # [G S E C]
        return chosen, chosen * plan.weight.astype(jnp.float32)[:, None]
    assert isinstance(plan, TokenChoice)
    expert = jax.nn.one_hot(plan.expert, plan.num_experts, dtype=jnp.float32)  # an index of -1 gives zeros
    slot = jax.nn.one_hot(served_slots(plan), buffer_capacity(plan), dtype=jnp.float32)
    into = jnp.einsum("GSKE,GSKC->GSEC", expert, slot)
    return into, jnp.einsum("GSKE,GSKC,GSK->GSEC", expert, slot, plan.weight.astype(jnp.float32))
