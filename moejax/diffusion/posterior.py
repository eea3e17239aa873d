"""One step back: q(x_s | x_t, x_0) for any two times s < t of a process, and the bounds of its learned variance.

With alpha_ts = alpha_t / alpha_s, x_t given x_s has mean alpha_ts x_s and variance beta = sigma_t^2 - alpha_ts^2 sigma_s^2.
Bayes gives mean = alpha_ts sigma_s^2 / sigma_t^2 x_t + alpha_s beta / sigma_t^2 x_0 and variance beta sigma_s^2 / sigma_t^2.

Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equations 6 and 7; learned variance, Nichol & Dhariwal
2021, "Improved Denoising Diffusion Probabilistic Models", equation 15; for any two times, Kingma et al. 2021,
"Variational Diffusion Models", appendix A.
Deviations: the upper bound is the variance of x_s given x_t for data of unit variance, beta where alpha^2 + sigma^2 = 1 as
published, and right for other processes. At s = 0, where the true variance is 0, the lower bound is that of the step before
it in an even chain (from 2 t to t), as in the code of Ho et al.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.diffusion.contract import Process, expand

LEAST_VARIANCE = 1e-20


class Posterior(NamedTuple):
    """mean [B ...]: of x_s. lower, upper: logarithms of the least and greatest variance that x_s may have given x_t, of a
    shape that broadcasts against the mean; the lower one is that of q(x_s | x_t, x_0).
    """

    mean: Float[Array, "B ..."]
    lower: Float[Array, "..."]
    upper: Float[Array, "..."]


def posterior(
    process: Process,
    x: Float[Array, "B ..."],
    x0: Float[Array, "B ..."],
    t: Float[Array, "..."],
    s: Float[Array, "..."],
) -> Posterior:
    """What x_t = x and the data (or an estimate of them) say about x_s. s < t: [B] or scalars; float32."""
    x, x0 = x.astype(jnp.float32), x0.astype(jnp.float32)
    alpha_s = process.alpha(s)
    ratio, beta, shrink = _step(process, t, s)
    before = jnp.minimum(2.0 * t, 1.0)
    _, first_beta, first_shrink = _step(process, before, t)
    variance = jnp.where(process.sigma(s) > 0.0, beta * shrink, first_beta * first_shrink)
    power_s, power_t = alpha_s**2 + process.sigma(s) ** 2, process.alpha(t) ** 2 + process.sigma(t) ** 2
    upper = beta * power_s / power_t
    data_gain = alpha_s * beta / process.sigma(t) ** 2
    return Posterior(
        mean=expand(ratio * shrink, x) * x + expand(data_gain, x) * x0,
        lower=expand(jnp.log(jnp.maximum(jnp.minimum(variance, upper), LEAST_VARIANCE)), x),
        upper=expand(jnp.log(jnp.maximum(upper, LEAST_VARIANCE)), x),
    )


def learned_log_variance(
    variance: Float[Array, "B ..."], lower: Float[Array, "..."], upper: Float[Array, "..."]
) -> Float[Array, "B ..."]:
    """Log variance that an output in [-1, 1] stands for: -1 is the lower bound, 1 the upper, linear in between."""
    share = 0.5 * (variance.astype(jnp.float32) + 1.0)
    return share * upper + (1.0 - share) * lower


def _step(
    process: Process, t: Float[Array, "..."], s: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """alpha_ts, beta and sigma_s^2 / sigma_t^2."""
    ratio = process.alpha(t) / process.alpha(s)
    noise_s, noise_t = process.sigma(s) ** 2, process.sigma(t) ** 2
    return ratio, jnp.maximum(noise_t - ratio**2 * noise_s, 0.0), noise_s / noise_t
