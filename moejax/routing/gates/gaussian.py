"""Scores are the logarithms of Gaussian densities at the token, weighted: a softmax of them is the posterior of a mixture.

Source: Xu, Jordan and Hinton 1994 ("An alternative model for mixtures of experts"), equation 5; Nguyen et al. 2024 ("Towards
    convergence rates for parameter estimation in Gaussian-gated mixture of experts"), equation 1.
Deviations: covariances are diagonal.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.routing.logits import init_kernel, wide


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaussian:
    """scale: standard deviation of every expert at the beginning; None: the root of the width, which is a token's length where its
    entries are of size one, so that scores begin of size one. Raises SpecError for a scale that is not positive.
    """

    scale: float | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and self.scale <= 0:
            raise SpecError(f"gate.scale={self.scale} must be above 0.")

    def init(self, key: PRNGKeyArray, dim: int, num_experts: int) -> Any:
        """{'kernel': [D E] centres, 'log_scale': [D E], 'bias': [E] logarithms of weights}."""
        scale = math.sqrt(dim) if self.scale is None else self.scale
        return {
            "kernel": init_kernel(key, dim, num_experts),
            "log_scale": jnp.full((dim, num_experts), math.log(scale), jnp.float32),
            "bias": jnp.zeros((num_experts,), jnp.float32),
        }

    def logits(self, params: Any, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """The bias, and log N(x | centre, diag(scale^2))."""
        kernel, log_scale = wide(params["kernel"]), wide(params["log_scale"])
        sizes = (*x.shape, kernel.shape[1])
        apart = (wide(x)[..., None] - jnp.broadcast_to(kernel, sizes)) * jnp.broadcast_to(jnp.exp(-log_scale), sizes)
        constant = wide(params["bias"]) - jnp.sum(log_scale, axis=0) - 0.5 * x.shape[-1] * math.log(2 * math.pi)
        return jnp.broadcast_to(constant, (*x.shape[:-1], kernel.shape[1])) - 0.5 * jnp.sum(apart * apart, axis=-2)


EXAMPLES = (Gaussian(), Gaussian(scale=1.0))
