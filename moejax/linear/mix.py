"""Experts mixed in parameter space.

Source: Muqeeth et al. 2023, "Soft Merging of Experts with Adaptive Routing", section 3.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mix(params: Any, weight: Float[Array, "G E"]) -> Any:
    """A bank of G experts, each the weighted sum of the E experts of `params`, leaf by leaf, in the dtype of the leaf.

    Leaf types bring their own `mix`; plain arrays [E ...] are summed over E.
    """
    return jax.tree.map(lambda leaf: _mix_leaf(leaf, weight), params, is_leaf=lambda node: hasattr(node, "mix"))


def _mix_leaf(leaf: Any, weight: Array) -> Any:
    if hasattr(leaf, "mix"):
        return leaf.mix(weight)
    return jnp.einsum("GE,E...->G...", weight.astype(leaf.dtype), leaf)
