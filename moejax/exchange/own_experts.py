"""What is left of a plan for some of its experts.

Source: ours.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from moejax.core.plans import ExpertChoice, Plan, SlotMix, TokenChoice


def own_experts(plan: Plan, first: Int[Array, ""], count: int) -> Plan:
    """The plan for experts [first, first + count), numbered from 0; what it says of the others is left out.

    Whom a full expert serves does not depend on the others, so the parts of all devices sum to the whole.
    """
    if isinstance(plan, TokenChoice):
        own = (plan.expert >= first) & (plan.expert < first + count)
        return dataclasses.replace(plan, expert=jnp.where(own, plan.expert - first, -1), num_experts=count)
    axis = 1 if isinstance(plan, ExpertChoice) else 2
    assert isinstance(plan, ExpertChoice | SlotMix)
    return jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, first, count, axis), plan)
