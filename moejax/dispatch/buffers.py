"""Slots of all groups, as the buffers that an expert bank computes on.

Source: ours.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Buffers, Layout

Apply = Callable[[Any, Layout], Layout]  # (params, layout) -> the same layout, each row through its expert


def through_experts(slots: Float[Array, "G E C D"], params: Any, apply: Apply) -> Float[Array, "G E C F"]:
    """Every slot through its expert, at the width F that it writes; the bank sees [E, G*C, D]."""
    groups, experts, capacity, dim = slots.shape
    tokens = jnp.swapaxes(slots, 0, 1).reshape(experts, groups * capacity, dim)
    out = apply(params, Buffers(tokens)).tokens
    return jnp.swapaxes(out.reshape(experts, groups, capacity, -1), 0, 1)
