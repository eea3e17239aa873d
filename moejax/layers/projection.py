"""A weight leaf with a bias beside it: params[name] is the leaf, params[name + '_bias'] the bias.

Names of leaves read `attention/query/kernel` and `attention/query_bias`, whatever type the weight leaf has.
Source: ours.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.rng import named
from moejax.linear.dense import Dense, init_dense


def init_projection(
    key: PRNGKeyArray, name: str, shape: tuple[int, int], initializer: Any, *, bias: float = 0.0
) -> dict[str, Any]:
    """{name: Dense [D F], name_bias: [F]}, the bias a constant; the kernel's stream is named after it."""
    return {name: init_kernel(key, name, shape, initializer), f"{name}_bias": jnp.full((shape[-1],), bias)}


def init_kernel(key: PRNGKeyArray, name: str, shape: tuple[int, int], initializer: Any) -> Dense:
    """The leaf alone, for a product without bias; its stream is named after it."""
    return init_dense(named(key, name), shape, initializer)


def project(params: dict[str, Any], name: str, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
    """The product of x and the weight, plus the bias, in the dtype of x."""
    y = params[name].matmul(x)
    return y + jnp.broadcast_to(params[f"{name}_bias"].astype(y.dtype), y.shape)
