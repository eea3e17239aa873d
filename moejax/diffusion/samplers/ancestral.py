"""Ancestral sampling of DDPM: draw x_s from the posterior q(x_s | x_t, x_0) with the estimate of x_0 put in.

Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", algorithm 2 and section 3.2 (the two fixed variances);
learned variance and fewer steps than in training, Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic
Models", equation 15 and section 4.
Deviations: the posterior is that between any two times of any process (moejax/diffusion/posterior.py), so that steps may
be spread as one likes; grid='respaced' is that of the second paper. The step to t = 0 draws no noise.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.contract import Denoised, Denoiser, Process, Sampled
from moejax.diffusion.posterior import Posterior, learned_log_variance, posterior
from moejax.diffusion.stepping import TimeSteps, ask, make_steps, step_keys

VARIANCES = ("small", "large", "learned")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral(TimeSteps):
    """variance: 'small' (right for data at one point), 'large' (for data of unit variance) or 'learned' (the denoiser's).

    num_steps, grid, to_data: see `stepping.TimeSteps`.
    """

    variance: str = "small"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance not in VARIANCES:
            raise SpecError(f"sampler.variance={self.variance!r} is unknown.{did_you_mean(self.variance, VARIANCES)}")

    @property
    def evaluations(self) -> int:
        """One a step."""
        return self.num_steps

    def sample(
        self, process: Process, denoiser: Denoiser, noise: Float[Array, "B ..."], *, key: PRNGKeyArray | None = None,
        record: bool = False,
    ) -> Sampled:  # fmt: skip
        """See `contract.Sampler`. Raises SpecError without a key, and for 'learned' with a denoiser that tells no variance."""
        grid = self.times(process)
        rows = {"t": grid[:-1], "s": grid[1:], "key": step_keys(self, key)}

        def step(carry, row):
            x = carry[0]
            said = ask(denoiser, x, row["t"])
            found = posterior(process, x, said.x0, row["t"], row["s"])
            std = jnp.exp(0.5 * self._log_variance(said, found))
            fresh = jax.random.normal(row["key"], x.shape, jnp.float32)
            return (found.mean + jnp.where(row["s"] > 0.0, std, jnp.zeros_like(std)) * fresh,), said.x0

        return make_steps(step, (noise.astype(jnp.float32),), rows, record=record)

    def _log_variance(self, said: Denoised, found: Posterior) -> Float[Array, "..."]:
        if self.variance == "small":
            return found.lower
        if self.variance == "large":
            return found.upper
        if said.variance is None:
            raise SpecError(
                "sampler.variance='learned' needs a denoiser that tells a variance, and this one does not. Use 'small' or "
                "'large', or a model trained with learn_variance=True."
            )
        return learned_log_variance(said.variance, found.lower, found.upper)


EXAMPLES = (Ancestral(num_steps=5), Ancestral(num_steps=4, variance="large"), Ancestral(num_steps=3, to_data=False))
