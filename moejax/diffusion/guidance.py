"""Classifier-free guidance: more of what the condition adds, noise = unconditional + w (conditional - unconditional).

Source: Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6 (their weight is w - 1); the interval,
Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion
Models", equation 5; the schedules, Wang et al. 2024, "Analysis of Classifier-Free Guidance Weight Schedulers", section 4;
tangential damping, Kwon et al. 2025, "TCFG: Tangential Damping Classifier-free Guidance", section 4.
Deviations: the interval is one of the time t, not of the noise level. The schedules weigh w - 1 and have the mean 1 over
t in [0, 1]: 2 (1 - t) and 1 + cos(pi t), both 0 at pure noise. Tangential damping acts on noise estimates, which are scores
up to one common factor, whatever the network predicts. x0 is guided by the same combination, which says the same for
alpha > 0 and is defined where alpha is 0.
"""

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.contract import Denoised, Denoiser, Process, expand

SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """scale: the weight w; 1 is no guidance, 0 the unconditional denoiser. interval: times t (0 data, 1 noise), both ends
    included, in which w differs from 1. schedule: of w - 1 over time. tangential: damp the unconditional estimate's part
    across the direction that it shares with the conditional one.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    schedule: str = "constant"
    tangential: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0.0):
            raise SpecError(
                f"guidance.scale={self.scale} must be finite and not negative: 1 is no guidance, usual values are 1.5 to 8."
            )
        low, high = self.interval
        if not 0.0 <= low < high <= 1.0:
            raise SpecError(
                f"guidance.interval={self.interval} must be two times (low, high), 0 <= low < high <= 1, where 0 is data and "
                "1 is noise; it is not in steps, nor in noise levels."
            )
        if self.schedule not in SCHEDULES:
            raise SpecError(f"guidance.schedule={self.schedule!r} is unknown.{did_you_mean(self.schedule, SCHEDULES)}")

    def weight(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The weight w at times of any shape, float32; 1 outside the interval."""
        t = t.astype(jnp.float32)
        shape = {"constant": jnp.ones_like(t), "linear": 2.0 * (1.0 - t), "cosine": 1.0 + jnp.cos(jnp.pi * t)}
        inside = (t >= self.interval[0]) & (t <= self.interval[1])
        return 1.0 + jnp.where(inside, (self.scale - 1.0) * shape[self.schedule], jnp.zeros_like(t))

    def __call__(
        self,
        conditional: Denoised,
        unconditional: Denoised,
        process: Process,
        x: Float[Array, "B ..."],
        t: Float[Array, " B"],
    ) -> Denoised:
        """The guided estimates for x = x_t; the learned variance is the conditional one."""
        if self.tangential:
            unconditional = damp_tangent(conditional, unconditional, process, t)
        more = expand(self.weight(t) - 1.0, x)  # added to the conditional estimate, so that w = 1 is exactly that
        return Denoised(
            x0=conditional.x0 + more * (conditional.x0 - unconditional.x0),
            noise=conditional.noise + more * (conditional.noise - unconditional.noise),
            variance=conditional.variance,
        )


def guided(conditional: Denoiser, unconditional: Denoiser, guidance: Guidance, process: Process) -> Denoiser:
    """One denoiser of two; the second is never asked where scale is 1. Source: as the file's."""
    if guidance.scale == 1.0:
        return conditional

    def denoise(x: Float[Array, "B ..."], t: Float[Array, " B"]) -> Denoised:
        return guidance(conditional(x, t), unconditional(x, t), process, x, t)

    return denoise


def damp_tangent(conditional: Denoised, unconditional: Denoised, process: Process, t: Float[Array, " B"]) -> Denoised:
    """The unconditional estimate, its noise projected on the leading right singular vector of the two noises of each example.

    For the 2 x d matrix of rows c and u with leading left singular vector (p, q), the projection of u is q (p c + q u), so
    that 2 x 2 products suffice. Where c and u are orthogonal and equally long, the leading vector is no longer unique; c is
    taken. Source: as the file's, with the singular values worked out by hand.
    """
    c, u = conditional.noise, unconditional.noise
    axes = tuple(range(1, u.ndim))
    cc, uu, cu = jnp.sum(c * c, axis=axes), jnp.sum(u * u, axis=axes), jnp.sum(c * u, axis=axes)
    angle = 0.5 * jnp.arctan2(2.0 * cu, cc - uu)
    p, q = jnp.cos(angle), jnp.sin(angle)
    change = expand(q * p, u) * c + expand(q * q - 1.0, u) * u
    # The same x_t with another noise has another x0. At alpha = 0 both noises are x_t: there is nothing to change.
    alpha, sigma = process.alpha(t), process.sigma(t)
    ratio = jnp.where(alpha > 0.0, sigma / jnp.where(alpha > 0.0, alpha, jnp.ones_like(alpha)), jnp.zeros_like(alpha))
    return Denoised(x0=unconditional.x0 - expand(ratio, u) * change, noise=u + change, variance=unconditional.variance)
