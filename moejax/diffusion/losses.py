"""Losses of diffusion models, one value per example.

Source: simple, Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equation 14; hybrid, Nichol & Dhariwal 2021,
"Improved Denoising Diffusion Probabilistic Models", equation 16, lambda = 0.001; min-SNR weights, Hang et al. 2023,
"Efficient Diffusion Training via Min-SNR Weighting Strategy", section 3.4.
Deviations: Hang et al. give the weights for alpha^2 + sigma^2 = 1 and three predictions. Each is min(SNR, gamma) times the
squared derivative of x0 by the output at fixed x_t, and so they are here for every process, and for flow.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.bound import bound_term, chain_length
from moejax.diffusion.contract import Process
from moejax.diffusion.predictions import PREDICTIONS, denoised, noised, target

LOSSES = ("simple", "hybrid")


def simple(
    kind: str,
    process: Process,
    x0: Float[Array, "B ..."],
    noise: Float[Array, "B ..."],
    t: Float[Array, " B"],
    output: Float[Array, "B ..."],
) -> Float[Array, " B"]:
    """Mean squared error of a network's output for x_t against the target of its prediction `kind`.

    Raises SpecError for an unknown kind.
    """
    error = output.astype(jnp.float32) - target(kind, process, x0, noise, t)
    return jnp.mean(error**2, axis=tuple(range(1, error.ndim)))


def hybrid(
    kind: str,
    process: Process,
    x0: Float[Array, "B ..."],
    noise: Float[Array, "B ..."],
    t: Float[Array, " B"],
    output: Float[Array, "B ..."],
    variance: Float[Array, "B ..."],
    *,
    bound_weight: float = 0.001,
    num_steps: int | None = None,
) -> Float[Array, " B"]:
    """`simple` plus bound_weight times the variational bound, which moves the variance only, not the output.

    variance: the network's learned interpolation, -1 to 1. The bound (bits per entry) is estimated from the one step at t:
    num_steps times its term, so that with 1000 steps and the default weight the term counts once, as in DiT.
    num_steps: of a process without steps of its own. Raises SpecError where it is missing, or kind is unknown.
    """
    x = noised(process, x0, noise, t)
    estimate = denoised(kind, process, x, t, jax.lax.stop_gradient(output), variance)
    bound = chain_length(process, num_steps) * bound_term(process, x0, x, t, estimate, num_steps=num_steps)
    return simple(kind, process, x0, noise, t, output) + bound_weight * bound


def min_snr_weight(process: Process, kind: str, t: Float[Array, " B"], gamma: float = 5.0) -> Float[Array, " B"]:
    """Factor on the simple loss of each example: what it must be for min(SNR, gamma) times the error of x0.

    With snr = alpha^2 / sigma^2 and alpha^2 + sigma^2 = 1: min(snr, gamma) / snr for noise, min(snr, gamma) for x0,
    min(snr, gamma) / (snr + 1) for velocity. Raises SpecError for an unknown kind or a gamma that is not positive.
    """
    if kind not in PREDICTIONS:
        raise SpecError(f"prediction={kind!r} is unknown.{did_you_mean(kind, PREDICTIONS)}")
    if gamma <= 0:
        raise SpecError(f"gamma={gamma} must be positive: it is the greatest weight, 5 in the paper.")
    alpha, sigma = process.alpha(t), process.sigma(t)
    snr = (alpha / sigma) ** 2
    if kind == "noise":
        return jnp.minimum(1.0, gamma / snr)
    capped = jnp.minimum(snr, gamma)
    if kind == "x0":
        return capped
    power = alpha**2 + sigma**2 if kind == "velocity" else alpha + sigma
    return capped * (sigma / power) ** 2


def check_loss(kind: str, *, learns_variance: bool) -> None:
    """Raises SpecError for an unknown loss, and where the loss and the network disagree about a learned variance."""
    if kind not in LOSSES:
        raise SpecError(f"loss={kind!r} is unknown.{did_you_mean(kind, LOSSES)}")
    if (kind == "hybrid") != learns_variance:
        raise SpecError(
            f"loss={kind!r} with a model that {'learns' if learns_variance else 'does not learn'} the variance:"
            " 'hybrid' is the loss that trains it, 'simple' leaves it untrained."
        )
