"""The discrete chain of DDPM: x_i = sqrt(1 - beta_i) x_{i-1} + sqrt(beta_i) noise, with linear or cosine betas.

Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equations 2 and 4 and section 4 (linear betas from
1e-4 to 0.02 for 1000 steps); Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 17
(cosine, s = 0.008, betas clipped at 0.999). DiT and DiT-MoE train with the linear betas.
Deviations: the chain has times between its steps, too: log alpha-bar is linear in t there, from 0 at t = 0. Linear betas
of another length than 1000 keep the path, beta_i ~ 1000 / num_steps, as the code of Nichol & Dhariwal does.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.contract import check_time

SCHEDULES = ("linear", "cosine")
FIRST_BETA, LAST_BETA = 1e-4, 0.02  # of 1000 steps
COSINE_OFFSET, MAX_BETA = 0.008, 0.999


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPM:
    """schedule: 'linear' or 'cosine'. num_steps: length of the chain; step i = 0 ... is the time (i + 1) / num_steps.

    The network is told the step i as a float: model_time(t) = t num_steps - 1. All functions keep the shape of t.
    """

    schedule: str = "linear"
    num_steps: int = 1000

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise SpecError(f"process.schedule={self.schedule!r} is unknown.{did_you_mean(self.schedule, SCHEDULES)}")
        least = math.floor(1000 * LAST_BETA) + 1 if self.schedule == "linear" else 2
        if self.num_steps < least:
            raise SpecError(
                f"process.num_steps={self.num_steps} must be at least {least} with schedule={self.schedule!r}."
                " For fewer network evaluations keep the chain and give the sampler fewer steps."
            )

    @property
    def betas(self) -> np.ndarray:
        """Variance that each step adds, float64 [num_steps]. Source: as the file's."""
        return _betas(self.schedule, self.num_steps)

    @property
    def alpha_bars(self) -> np.ndarray:
        """Square of alpha at each step, float64 [num_steps]: the product of 1 - beta up to it."""
        return np.exp(_log_alpha_bars(self.schedule, self.num_steps)[1:])

    @property
    def min_time(self) -> float:
        """The chain's first step."""
        return 1.0 / self.num_steps

    @property
    def max_time(self) -> float:
        """The chain's last step."""
        return 1.0

    def log_alpha_bar(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """Logarithm of alpha squared. Raises SpecError for known times outside [0, 1]."""
        check_time(t)
        table = jnp.asarray(_log_alpha_bars(self.schedule, self.num_steps), jnp.float32)
        place = jnp.clip(t.astype(jnp.float32), 0.0, 1.0) * self.num_steps
        # By hats, not by a floor: where a compiler computes one time twice and rounds differently, floors of 6.9999995 and of 7
        # meet, and the chain's own times are off by a whole step.
        steps = jnp.broadcast_to(jnp.arange(len(table), dtype=jnp.float32), (*place.shape, len(table)))
        away = jnp.abs(jnp.expand_dims(place, -1) - steps)
        return jnp.sum(jnp.maximum(1.0 - away, 0.0) * jnp.broadcast_to(table, away.shape), axis=-1)

    def alpha(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """Factor of the data, float32."""
        return jnp.exp(0.5 * self.log_alpha_bar(t))

    def sigma(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """Standard deviation of the noise, float32: alpha^2 + sigma^2 = 1."""
        return jnp.sqrt(0.0 - jnp.expm1(self.log_alpha_bar(t)))  # 0.0 - keeps the sign of 0

    def sample_time(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Steps of the chain, uniformly."""
        step = jax.random.randint(key, shape, 0, self.num_steps)
        return (step + 1).astype(jnp.float32) / self.num_steps

    def model_time(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The step index, 0 to num_steps - 1 on the chain."""
        return t.astype(jnp.float32) * self.num_steps - 1.0


@functools.lru_cache(maxsize=32)
def _betas(schedule: str, num_steps: int) -> np.ndarray:
    if schedule == "linear":
        scale = 1000 / num_steps
        return np.linspace(scale * FIRST_BETA, scale * LAST_BETA, num_steps, dtype=np.float64)
    ends = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    alpha_bar = np.cos((ends + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


@functools.lru_cache(maxsize=32)
def _log_alpha_bars(schedule: str, num_steps: int) -> np.ndarray:
    """[num_steps + 1], the data themselves (0) first."""
    return np.concatenate([[0.0], np.cumsum(np.log1p(-_betas(schedule, num_steps)))])


EXAMPLES = (DDPM(), DDPM(schedule="cosine"), DDPM(num_steps=100))
