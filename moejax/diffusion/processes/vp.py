"""Variance preserving diffusion in continuous time: alpha^2 + sigma^2 = 1 for every real t.

Source: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations", equation 33
(beta(t) linear from 0.1 to 20; the network is told 999 t, as in the authors' code); the cosine path is Nichol & Dhariwal
2021, equation 17, in continuous time with the last time 0.9946 of Lu et al. 2022, "DPM-Solver", section 6.
Deviations: training draws times from [min_time, max_time], so from 1e-3 on, where Song et al. train from 1e-5 on and
sample down to 1e-3.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.contract import check_time

SCHEDULES = ("linear", "cosine")
COSINE_OFFSET = 0.008
COSINE_MAX_TIME = 0.9946  # alpha is 0 at 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class VP:
    """schedule: 'linear' in beta, from beta_min at t = 0 to beta_max at t = 1, or 'cosine', which knows no betas.

    min_time: least time of training and sampling. All functions keep the shape of t and are float32.
    """

    schedule: str = "linear"
    beta_min: float = 0.1
    beta_max: float = 20.0
    min_time: float = 1e-3

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise SpecError(f"process.schedule={self.schedule!r} is unknown.{did_you_mean(self.schedule, SCHEDULES)}")
        if not 0.0 < self.beta_min <= self.beta_max:
            raise SpecError(f"process.beta_min={self.beta_min} must be positive and at most beta_max={self.beta_max}.")
        if not 0.0 < self.min_time < 0.5:
            raise SpecError(f"process.min_time={self.min_time} must lie in (0, 0.5): there is no noise at 0.")

    @property
    def max_time(self) -> float:
        """1, or 0.9946 for the cosine path, which keeps nothing of the data at 1."""
        return 1.0 if self.schedule == "linear" else COSINE_MAX_TIME

    def lost(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """1 - alpha(t), exact to rounding even where alpha is nearly 1.

        Raises SpecError for known times outside [0, 1].
        """
        check_time(t)
        t = t.astype(jnp.float32)
        if self.schedule == "linear":
            return -jnp.expm1(-0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t)
        # alpha = cos(start + angle) / cos(start), by the addition theorem.
        start, angle = 0.5 * math.pi * COSINE_OFFSET / (1 + COSINE_OFFSET), 0.5 * math.pi * t / (1 + COSINE_OFFSET)
        return 2.0 * jnp.sin(0.5 * angle) ** 2 + math.tan(start) * jnp.sin(angle)

    def alpha(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """Factor of the data."""
        return 1.0 - self.lost(t)

    def sigma(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """Standard deviation of the noise: sqrt((1 - alpha)(1 + alpha))."""
        lost = self.lost(t)
        return jnp.sqrt(lost * (2.0 - lost))

    def sample_time(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Uniform over [min_time, max_time]."""
        return jax.random.uniform(key, shape, jnp.float32, self.min_time, self.max_time)

    def model_time(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """999 t."""
        return 999.0 * t.astype(jnp.float32)


EXAMPLES = (VP(), VP(schedule="cosine"))
