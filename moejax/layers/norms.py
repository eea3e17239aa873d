"""Normalisation over the width of a token, computed in float32, returned in the dtype of x."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis.

    use_bias: without it the norm has a scale only (as qk-norm does). use_scale: without both it has no parameters.
    Source: Ba et al. 2016, "Layer Normalization"; epsilon 1e-6 as in Flax.
    """

    epsilon: float = 1e-6
    use_bias: bool = True
    use_scale: bool = True

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def init(self, dim: int) -> dict[str, Any]:
        """{'scale': ones [D], 'bias': zeros [D]}, those that it has."""
        params = {"scale": jnp.ones(dim)} if self.use_scale else {}
        return params | ({"bias": jnp.zeros(dim)} if self.use_bias else {})

    def apply(self, params: dict[str, Any], x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalised x."""
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        if self.use_scale:
            y = y * jnp.broadcast_to(params["scale"], y.shape)
        if self.use_bias:
            y = y + jnp.broadcast_to(params["bias"], y.shape)
        return y.astype(x.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMSNorm:
    """x / sqrt(mean(x^2) + epsilon) * scale over the last axis.

    Source: Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", equation 4.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def init(self, dim: int) -> dict[str, Any]:
        """{'scale': ones [D]}."""
        return {"scale": jnp.ones(dim)}

    def apply(self, params: dict[str, Any], x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalised x."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * jnp.broadcast_to(params["scale"], y.shape)).astype(x.dtype)


def _check_epsilon(epsilon: float) -> None:
    if not epsilon > 0:
        raise SpecError(f"epsilon={epsilon} must be above 0 (1e-6 is usual): it keeps a constant token finite.")
