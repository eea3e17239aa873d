"""Dropout of values, for every room. Without a key it does nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError


def check_rate(name: str, rate: float) -> None:
    """Raises SpecError unless 0 <= rate < 1."""
    if not 0 <= rate < 1:
        raise SpecError(f"{name}={rate} must lie in [0, 1): the fraction that training sets to zero.")


def dropout(x: Float[Array, "..."], rate: float, *, key: PRNGKeyArray | None) -> Float[Array, "..."]:
    """Each value is zero with probability `rate`, else divided by 1 - rate; its expectation stays.

    Source: Srivastava et al. 2014, "Dropout", section 10 (inverted form).
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros_like(x))
