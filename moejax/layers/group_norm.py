"""Normalisation over groups of channels and all places of a picture, computed in float32, returned in the dtype of x."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, mean and variance of each group of neighbouring channels.

    Source: Wu and He 2018, "Group Normalization", equations 1 to 3.
    """

    num_groups: int = 32
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.num_groups < 1 or not self.epsilon > 0:
            raise SpecError(f"num_groups={self.num_groups} must be at least 1 and epsilon={self.epsilon} above 0.")

    def check(self, width: int) -> None:
        """Raises SpecError when the groups do not divide `width` channels."""
        if width % self.num_groups:
            raise SpecError(f"num_groups={self.num_groups} does not divide {width} channels; widths are its multiples.")

    def init(self, width: int) -> dict[str, Any]:
        """{'scale': ones [width], 'bias': zeros [width]}."""
        self.check(width)
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    def apply(
        self, params: dict[str, Any], x: Float[Array, "B height width channels"]
    ) -> Float[Array, "B height width channels"]:
        """Normalised x."""
        self.check(x.shape[-1])
        y = x.astype(jnp.float32).reshape(*x.shape[:3], self.num_groups, -1)
        y = y - y.mean((1, 2, 4), keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 2, 4), keepdims=True) + self.epsilon)
        y = y.reshape(x.shape)
        y = y * jnp.broadcast_to(params["scale"], y.shape) + jnp.broadcast_to(params["bias"], y.shape)
        return y.astype(x.dtype)
