"""Rectified flow: straight lines from data to noise, x_t = (1 - t) x_0 + t noise.

Source: Liu et al. 2023, "Flow Straight and Fast", equation 1; the logit-normal times are Esser et al. 2024, "Scaling
Rectified Flow Transformers for High-Resolution Image Synthesis", section 3.1.
Deviations: 0 is data and 1 is noise, as in Esser et al.; Liu et al. count the other way. The network is told 1000 t
(published codes tell it t or 1000 t; with 1000 t the embedding's frequencies are those of DDPM). Training draws times from
[min_time, max_time] only.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.contract import check_time

TIMES = ("uniform", "logit_normal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """time: how training draws t, 'uniform' or 'logit_normal' (the sigmoid of a normal number of `mean` and `std`).

    min_time, max_time: the times of training and sampling. At 1 nothing of the data is left, which is harmless for all
    predictions but 'noise'. All functions keep the shape of t and are float32.
    """

    time: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    min_time: float = 1e-3
    max_time: float = 1.0

    def __post_init__(self) -> None:
        if self.time not in TIMES:
            raise SpecError(f"process.time={self.time!r} is unknown.{did_you_mean(self.time, TIMES)}")
        if self.std <= 0:
            raise SpecError(f"process.std={self.std} must be positive; mean={self.mean} says where times gather.")
        if not 0.0 < self.min_time < self.max_time <= 1.0:
            raise SpecError(
                f"process.min_time={self.min_time}, max_time={self.max_time} must satisfy 0 < min_time < max_time <= 1."
            )

    def alpha(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """1 - t. Raises SpecError for known times outside [0, 1]."""
        check_time(t)
        return 1.0 - t.astype(jnp.float32)

    def sigma(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The time itself. Raises SpecError for known times outside [0, 1]."""
        check_time(t)
        return t.astype(jnp.float32)

    def sample_time(self, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Times in [min_time, max_time]; the few of 'logit_normal' that fall outside move to the end."""
        if self.time == "uniform":
            return jax.random.uniform(key, shape, jnp.float32, self.min_time, self.max_time)
        normal = jax.random.normal(key, shape, jnp.float32)
        return jnp.clip(jax.nn.sigmoid(self.mean + self.std * normal), self.min_time, self.max_time)

    def model_time(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """1000 t."""
        return 1000.0 * t.astype(jnp.float32)


EXAMPLES = (RectifiedFlow(), RectifiedFlow(time="logit_normal", mean=0.5, std=0.8))
