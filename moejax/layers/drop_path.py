"""Dropout of whole residual branches. Without a key it does nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


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
