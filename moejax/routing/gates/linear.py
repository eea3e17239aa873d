"""Scores are inner products, with a bias or without: softmax and top-K gates, and sigmoid ones by the router's `scores`.

Source: Shazeer et al. 2017 ("Outrageously large neural networks"), section 2.1; with a bias Nguyen et al. 2023 ("Demystifying
    softmax gating function in Gaussian mixture of experts"), equation 1.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.routing.logits import init_kernel, linear_logits, wide


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear:
    """bias: one per expert, at first zero. kernel_init: see `logits.init_kernel`."""

    bias: bool = False
    kernel_init: Literal["lecun_normal", "kaiming_uniform"] = "lecun_normal"

    def init(self, key: PRNGKeyArray, dim: int, num_experts: int) -> Any:
        """{'kernel': [D E]} and with `bias` {'bias': [E]}."""
        kernel = {"kernel": init_kernel(key, dim, num_experts, self.kernel_init)}
        return kernel | ({"bias": jnp.zeros((num_experts,), jnp.float32)} if self.bias else {})

    def logits(self, params: Any, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """The product x @ kernel (+ bias), in full precision whatever the device's default."""
        scores = linear_logits(x, params["kernel"])
        return scores + jnp.broadcast_to(wide(params["bias"]), scores.shape) if self.bias else scores


EXAMPLES = (Linear(), Linear(bias=True, kernel_init="kaiming_uniform"))
