"""Dropout of values and of whole residual branches. Without a key both do nothing."""

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


def drop_path(
    x: Float[Array, "B T D"], rate: Float[Array, ""] | float, *, key: PRNGKeyArray | None
) -> Float[Array, "B T D"]:
    """A residual branch, zero for a whole example with probability `rate`, else divided by 1 - rate.

    The rate may be traced: it differs by layer while layers share one scan.
    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth", section 3.
    """
    if key is None:
        return x
    keep_rate = 1.0 - jnp.asarray(rate, jnp.float32)
    keep = jax.random.bernoulli(key, keep_rate, (x.shape[0], 1, 1))
    factor = jnp.where(keep, 1.0 / keep_rate, 0.0)
    return x * jnp.broadcast_to(factor.astype(x.dtype), x.shape)
