"""The variational bound on -log p(x_0), in bits per entry of x, one term per step of a chain.

Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equations 5 and 13 (data of 256 levels, scaled to
[-1, 1]); Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", section 3.
Deviations: the discretised likelihood uses the exact normal distribution function, their code a tanh in its place.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.diffusion.contract import Denoised, Denoiser, Process
from moejax.diffusion.posterior import learned_log_variance, posterior
from moejax.diffusion.predictions import noised

HALF_LEVEL = 1.0 / 255.0
LEAST_PROBABILITY = 1e-12


def chain_length(process: Process, num_steps: int | None) -> int:
    """`num_steps`, or the process's own. Raises SpecError where neither is given."""
    if num_steps is None:
        num_steps = getattr(process, "num_steps", None)
    if num_steps is None:
        raise SpecError(
            f"{type(process).__name__} has no steps of its own, and a variational bound needs them: pass num_steps=1000,"
            " or use the process 'ddpm'."
        )
    return num_steps


def discretised_log_likelihood(
    x0: Float[Array, "B ..."], mean: Float[Array, "B ..."], log_variance: Float[Array, "..."]
) -> Float[Array, "B ..."]:
    """Natural log probability of the level of each entry of x0 under a normal number; the end levels own the tails.

    x0: values of 256 even levels in [-1, 1].
    """
    inverse = jnp.exp(-0.5 * log_variance)
    above = jax.scipy.special.ndtr((x0 - mean + HALF_LEVEL) * inverse)
    below = jax.scipy.special.ndtr((x0 - mean - HALF_LEVEL) * inverse)
    above = jnp.where(x0 > 1.0 - HALF_LEVEL, 1.0, above)
    below = jnp.where(x0 < -1.0 + HALF_LEVEL, 0.0, below)
    return jnp.log(jnp.maximum(above - below, LEAST_PROBABILITY))


def bound_term(
    process: Process,
    x0: Float[Array, "B ..."],
    x: Float[Array, "B ..."],
    t: Float[Array, " B"],
    estimate: Denoised,
    *,
    num_steps: int | None = None,
) -> Float[Array, " B"]:
    """Bits per entry that the step from t to t - 1 / num_steps costs, given x = x_t and what the network says about it.

    The Kullback-Leibler distance of the true step from the network's, or -log p(x0 | x_t) for the last step, which
    reaches the data. estimate: its variance decides that of the step; without, the lower bound does.
    num_steps: of a process without steps of its own. Raises SpecError where it is missing.
    """
    step = 1.0 / chain_length(process, num_steps)
    s = jnp.maximum(t - step, 0.0)
    s = jnp.where(s < 0.5 * step, 0.0, s)
    said = posterior(process, x, estimate.x0, t, s)  # its lower bound is the true variance, whatever is said of x0
    log_variance = jnp.broadcast_to(said.lower, x.shape)
    if estimate.variance is not None:
        log_variance = learned_log_variance(estimate.variance, said.lower, said.upper)
    # Means are linear in the data: their difference is the mean of the difference, in which x does not cancel.
    error = x0.astype(jnp.float32) - estimate.x0.astype(jnp.float32)
    apart = posterior(process, jnp.zeros_like(error), error, t, s).mean ** 2 * jnp.exp(-log_variance)
    distance = 0.5 * (log_variance - said.lower + jnp.exp(said.lower - log_variance) - 1.0 + apart)
    likelihood = discretised_log_likelihood(x0.astype(jnp.float32), said.mean, log_variance)
    return jnp.where(s > 0.0, _bits(distance), _bits(-likelihood))


def prior_term(process: Process, x0: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """Bits per entry that the last time of the process still tells about x0, against standard normal noise."""
    time = jnp.float32(process.max_time)
    alpha, sigma = process.alpha(time), process.sigma(time)
    return _bits(0.5 * (sigma**2 + (alpha * x0.astype(jnp.float32)) ** 2 - 1.0) - jnp.log(sigma))


def variational_bound(
    process: Process,
    denoiser: Denoiser,
    x0: Float[Array, "B ..."],
    key: PRNGKeyArray,
    *,
    num_steps: int | None = None,
) -> Float[Array, " B"]:
    """Bits per entry of the whole chain, one draw of noise per step; as many network evaluations as steps.

    The chain runs over (i + 1) / num_steps, so its process must reach time 1. Raises SpecError where num_steps is missing.
    """
    length = chain_length(process, num_steps)

    def add(total: Float[Array, " B"], step: Array) -> tuple[Float[Array, " B"], None]:
        t = jnp.full(x0.shape[:1], (step + 1).astype(jnp.float32) / length)
        noise = jax.random.normal(jax.random.fold_in(key, step), x0.shape, jnp.float32)
        x = noised(process, x0, noise, t)
        return total + bound_term(process, x0, x, t, denoiser(x, t), num_steps=num_steps), None

    return jax.lax.scan(add, prior_term(process, x0), jnp.arange(length))[0]


def _bits(nats: Float[Array, "B ..."]) -> Float[Array, " B"]:
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim))) / math.log(2.0)
