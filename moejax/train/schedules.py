"""Learning-rate schedules: functions of the step with values in [0, 1], to be multiplied by the peak rate."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError, did_you_mean

SCHEDULES = ("constant", "cosine", "linear", "rsqrt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Warm-up, a shape, and a cool-down.

    shape: 'cosine' and 'linear' fall from 1 after the warm-up to `end_fraction` at the last step; 'rsqrt' falls as
        sqrt(timescale / (timescale + steps since the warm-up)); 'constant' stays.
    warmup_steps: step t of the warm-up has (t + 1) / warmup_steps, so the first step already learns.
    cooldown_steps: the last steps fall linearly to zero on top of the shape ('rsqrt' and 'constant' only).
    Source: cosine, Loshchilov and Hutter 2017, "SGDR", equation 5 without restarts; rsqrt with timescale and cool-down,
        Zhai et al. 2022, "Scaling Vision Transformers", section 3.4.
    Deviations: the warm-up counts from 1, there from 0.
    """

    shape: str = "cosine"
    warmup_steps: int = 0
    end_fraction: float = 0.0
    timescale: int = 10_000
    cooldown_steps: int = 0

    def __post_init__(self) -> None:
        if self.shape not in SCHEDULES:
            raise SpecError(f"optimizer.schedule={self.shape!r} is no schedule.{did_you_mean(self.shape, SCHEDULES)}")
        for name in ("warmup_steps", "cooldown_steps"):
            if getattr(self, name) < 0:
                raise SpecError(f"optimizer.{name}={getattr(self, name)} must not be negative.")
        if self.timescale < 1:
            raise SpecError(f"optimizer.timescale={self.timescale} must be at least 1 step.")
        if not 0.0 <= self.end_fraction <= 1.0:
            raise SpecError(f"optimizer.end_fraction={self.end_fraction} must lie in [0, 1].")
        if self.cooldown_steps and self.shape in ("cosine", "linear"):
            raise SpecError(
                f"optimizer.cooldown_steps={self.cooldown_steps}: {self.shape!r} falls by itself; "
                "set it to 0, or take 'rsqrt' or 'constant'."
            )

    def build(self, steps: int) -> Callable[[Array | int], Float[Array, ""]]:
        """The multiplier at a step (from 0) of a run of `steps`. Raises SpecError when the ramps do not fit the run."""
        if self.warmup_steps + self.cooldown_steps > steps:
            raise SpecError(
                f"optimizer.warmup_steps={self.warmup_steps} and cooldown_steps={self.cooldown_steps} "
                f"do not fit train.steps={steps}; shorten them or train longer."
            )

        def multiplier(step: Array | int) -> Float[Array, ""]:
            now = jnp.asarray(step, jnp.float32)
            value = self._decay(now, steps)
            if self.warmup_steps:
                value = value * jnp.minimum(1.0, (now + 1.0) / self.warmup_steps)
            if self.cooldown_steps:
                value = value * jnp.clip((steps - now) / self.cooldown_steps, 0.0, 1.0)
            return value

        return multiplier

    def _decay(self, now: Float[Array, ""], steps: int) -> Float[Array, ""]:
        since = jnp.maximum(now - self.warmup_steps, 0.0)
        if self.shape == "constant":
            return jnp.ones((), jnp.float32)
        if self.shape == "rsqrt":
            return jnp.sqrt(self.timescale / (self.timescale + since))
        progress = jnp.minimum(since / max(steps - self.warmup_steps, 1), 1.0)
        falling = 0.5 * (1.0 + jnp.cos(jnp.pi * progress)) if self.shape == "cosine" else 1.0 - progress
        return self.end_fraction + (1.0 - self.end_fraction) * falling
