"""Mixtures of Gaussians, for which everything that a diffusion model learns is known in closed form.

With x_0 ~ sum_m w_m N(mu_m, s_m^2 I), the noised x_t is a mixture as well, of means alpha mu_m and variances
v_m = alpha^2 s_m^2 + sigma^2. Given the component, E[x_0 | x_t] = mu_m + alpha s_m^2 / v_m (x_t - alpha mu_m) and
E[noise | x_t] = sigma / v_m (x_t - alpha mu_m); the posterior weights of the components mix them.

Source: ours (the conditional expectation of jointly Gaussian variables).
"""

import math
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.diffusion.contract import Denoised, Denoiser, Process, expand


@flax.struct.dataclass
class GaussianMixture:
    """weights: of the components, sum 1. means: their centres. stds: their standard deviation in all directions, >= 0.

    Examples are x [B ...] of d entries each, in any shape.
    """

    weights: Annotated[Any, Float[Array, " M"]]
    means: Annotated[Any, Float[Array, "M d"]]
    stds: Annotated[Any, Float[Array, " M"]]

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "B d"]:
        """Data, float32."""
        which_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(which_key, jnp.log(self.weights), shape=(num_samples,))
        noise = jax.random.normal(noise_key, (num_samples, self.means.shape[1]), jnp.float32)
        return self.means[which] + self.stds[which, None] * noise

    def mean(self) -> Float[Array, " d"]:
        """Expectation of the data."""
        return jnp.einsum("M,Md->d", self.weights, self.means)

    def covariance(self) -> Float[Array, "d d"]:
        """Covariance of the data."""
        apart = self.means - self.mean()[None]
        spread = jnp.sum(self.weights * self.stds**2)
        return jnp.einsum("M,Mi,Mj->ij", self.weights, apart, apart) + spread * jnp.eye(self.means.shape[1])

    def log_density(self, process: Process, x: Float[Array, "B ..."], t: Float[Array, "..."]) -> Float[Array, " B"]:
        """Natural logarithm of the density of x_t at x; t: [B] or a scalar. Needs sigma(t) > 0 where a std is 0."""
        apart, _, variance = self._apart(process, x, t)
        return jax.nn.logsumexp(self._log_joint(apart, variance), axis=-1)

    def denoise(self, process: Process, x: Float[Array, "B ..."], t: Float[Array, "..."]) -> Denoised:
        """The expectations of x_0 and of the noise given x_t = x: what the best possible network says."""
        apart, alpha, variance = self._apart(process, x, t)
        share = jax.nn.softmax(self._log_joint(apart, variance), axis=-1)
        gain = alpha[:, None] * self.stds[None] ** 2 / variance
        x0 = jnp.einsum("BM,Md->Bd", share, self.means) + jnp.einsum("BM,BMd->Bd", share * gain, apart)
        noise = expand(process.sigma(jnp.broadcast_to(t, x.shape[:1])), x0)
        noise = noise * jnp.einsum("BM,BMd->Bd", share / variance, apart)
        return Denoised(x0=x0.reshape(x.shape), noise=noise.reshape(x.shape))

    def denoiser(self, process: Process) -> Denoiser:
        """`denoise` in the form that samplers take."""
        return lambda x, t: self.denoise(process, x, t)

    def _apart(
        self, process: Process, x: Float[Array, "B ..."], t: Float[Array, "..."]
    ) -> tuple[Float[Array, "B M d"], Float[Array, " B"], Float[Array, "B M"]]:
        """Gap between x and alpha mean of each component, alpha, and the variance of each component of x_t."""
        t = jnp.broadcast_to(t, x.shape[:1])
        alpha, sigma = process.alpha(t), process.sigma(t)
        flat = x.astype(jnp.float32).reshape(x.shape[0], -1)
        apart = flat[:, None] - alpha[:, None, None] * self.means[None]
        return apart, alpha, alpha[:, None] ** 2 * self.stds[None] ** 2 + sigma[:, None] ** 2

    def _log_joint(self, apart: Float[Array, "B M d"], variance: Float[Array, "B M"]) -> Float[Array, "B M"]:
        """Logarithm of weight times density of each component."""
        size = apart.shape[-1]
        exponent = -0.5 * jnp.sum(apart**2, axis=-1) / variance
        return jnp.log(self.weights)[None] + exponent - 0.5 * size * jnp.log(2.0 * math.pi * variance)
