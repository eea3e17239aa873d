"""A convolution with a bias beside it: params[name + '_kernel'] [k k inputs outputs] and params[name + '_bias'] [outputs]."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.rng import named

_LECUN = jax.nn.initializers.lecun_normal()


def init_convolution(key: PRNGKeyArray, name: str, size: int, inputs: int, outputs: int) -> dict[str, Any]:
    """{name_kernel: lecun normal [size size inputs outputs], name_bias: zeros [outputs]}. Source: ours."""
    kernel = _LECUN(named(key, name), (size, size, inputs, outputs), jnp.float32)
    return {f"{name}_kernel": kernel, f"{name}_bias": jnp.zeros(outputs)}


def convolve(
    params: dict[str, Any],
    name: str,
    x: Float[Array, "B height width channels"],
    *,
    stride: int = 1,
    padding: Any = "SAME",
) -> Float[Array, "B rows columns F"]:
    """The convolution (a correlation, as in every library) in the dtype of x. padding: as `jax.lax` takes it."""
    y = jax.lax.conv_general_dilated(
        x,
        params[f"{name}_kernel"].astype(x.dtype),
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + jnp.broadcast_to(params[f"{name}_bias"].astype(y.dtype), y.shape)
