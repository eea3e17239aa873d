"""Scores divided by a temperature that is learned with them, after an activation that makes it identifiable.

Without an activation (or with one that is homogeneous, as ReLU) kernel, bias and temperature may be multiplied by one number
and nothing changes, so that none of them can be estimated; tanh, sigmoid and GELU forbid that.
Source: Nie et al. 2021 ("EvoMoE", dense-to-sparse gate); Nguyen et al. 2024 ("Is temperature sample efficient for softmax
    Gaussian mixture of experts?"), equation 1 and section 3 for the activation.
Deviations: the logarithm of the temperature is the parameter, so that it stays positive.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.routing.logits import init_kernel, linear_logits, wide

ACTIVATIONS = {
    "identity": lambda scores: scores,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda scores: jax.nn.gelu(scores, approximate=False),
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
    """activation: of the inner products. temperature: at the beginning, above 0. Raises SpecError for another."""

    activation: Literal["identity", "tanh", "sigmoid", "gelu", "relu"] = "tanh"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise SpecError(f"gate.temperature={self.temperature} must be above 0.")

    def init(self, key: PRNGKeyArray, dim: int, num_experts: int) -> Any:
        """{'kernel': [D E], 'bias': [E], 'log_temperature': []}."""
        return {
            "kernel": init_kernel(key, dim, num_experts),
            "bias": jnp.zeros((num_experts,), jnp.float32),
            "log_temperature": jnp.log(jnp.float32(self.temperature)),
        }

    def logits(self, params: Any, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """(activation(x @ kernel) + bias) / temperature."""
        scores = linear_logits(x, params["kernel"])
        scores = ACTIVATIONS[self.activation](scores)
        return (scores + jnp.broadcast_to(wide(params["bias"]), scores.shape)) / jnp.exp(params["log_temperature"])


EXAMPLES = (Temperature(), Temperature(activation="identity", temperature=2.0), Temperature(activation="gelu"))
