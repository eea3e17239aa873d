"""Dropout over the rows of a layout.

Source: Srivastava et al. 2014, "Dropout", in the form that scales while training.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from moejax.core.layouts import Layout


def dropout(x: Layout, rate: float, key: PRNGKeyArray | None) -> Layout:
    """Each value is zero with probability `rate`, else divided by 1 - rate. The same x back without a key or a rate."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.tokens.shape)
    return dataclasses.replace(x, tokens=jnp.where(keep, x.tokens / (1 - rate), jnp.zeros((), x.tokens.dtype)))
