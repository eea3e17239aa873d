"""Scores are minus the distance between token and expert, with a bias: tokens near an expert go to it, and scores are bounded.

Source: Han et al. 2024 ("FuseMoE"), section 3.2, equation 5.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.routing.logits import init_kernel, wide

_SMALLEST = 1e-12  # squared distance below which the gradient is taken for zero: the root has none at zero


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laplace:
    """bias: one per expert, at first zero."""

    bias: bool = True

    def init(self, key: PRNGKeyArray, dim: int, num_experts: int) -> Any:
        """{'kernel': [D E]}, whose columns are places among the tokens, and with `bias` {'bias': [E]}."""
        kernel = {"kernel": init_kernel(key, dim, num_experts)}
        return kernel | ({"bias": jnp.zeros((num_experts,), jnp.float32)} if self.bias else {})

    def logits(self, params: Any, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """-|x - w| (+ bias)."""
        apart = wide(x)[..., None] - jnp.broadcast_to(wide(params["kernel"]), (*x.shape, params["kernel"].shape[1]))
        scores = -jnp.sqrt(jnp.maximum(jnp.sum(apart * apart, axis=-2), _SMALLEST))
        return scores + jnp.broadcast_to(wide(params["bias"]), scores.shape) if self.bias else scores


EXAMPLES = (Laplace(), Laplace(bias=False))
