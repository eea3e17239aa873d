"""Parameters move, not tokens: each group passes the one expert that its weights mix.

Source: Muqeeth et al. 2023, "Soft Merging of Experts with Adaptive Routing" (SMEAR), section 3.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Buffers
from moejax.core.plans import Merge, Plan
from moejax.dispatch.buffers import Apply
from moejax.linear.mix import mix

PLANS = (Merge,)


def dispatch(plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply) -> Float[Array, "G S F"]:
    """Mixes G experts and gives each its group as a buffer [G S D]. Memory: G sets of expert parameters."""
    assert isinstance(plan, Merge)
    return apply(mix(params, plan.weight.astype(jnp.float32)), Buffers(x)).tokens
