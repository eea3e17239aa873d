"""Router logits: the linear map from tokens to one score per expert, always in float32, and the noise on it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.rng import named

KERNEL_INITS = {
    "lecun_normal": jax.nn.initializers.lecun_normal(),
    "kaiming_uniform": jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}


def init_kernel(
    key: PRNGKeyArray, dim: int, num_experts: int, initializer: str = "lecun_normal"
) -> Float[Array, "D E"]:
    """A router kernel. 'lecun_normal', or 'kaiming_uniform': uniform within 1 / sqrt(D), kaiming's with slope sqrt(5).

    Source: Riquelme et al. 2021 use a bias-free dense layer with the first; the released DiT-MoE and DeepSeekMoE the second.
    """
    return KERNEL_INITS[initializer](key, (dim, num_experts), jnp.float32)


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """In float32, or as it is in float64: scores are never computed in less."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def linear_logits(x: Float[Array, "... D"], kernel: Float[Array, "D E"]) -> Float[Array, "... E"]:
    """The product x @ kernel in full float32 (or float64), whatever the dtype of x and the default precision of the device.

    Source: Fedus et al. 2022 (Switch), section 2.4 "selective precision".
    """
    return jnp.matmul(wide(x), wide(kernel), precision=jax.lax.Precision.HIGHEST)


def add_noise(key: PRNGKeyArray | None, logits: Float[Array, "..."], std: float) -> Float[Array, "..."]:
    """Logits with Gaussian noise of standard deviation `std`; unchanged without a key or with std 0."""
    if key is None or std == 0.0:
        return logits
    return logits + std * jax.random.normal(named(key, "noise"), logits.shape, logits.dtype)
