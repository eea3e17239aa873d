"""Euler steps in time on the probability flow dx/dt = alpha'(t) x0 + sigma'(t) noise.

For rectified flow alpha' = -1 and sigma' = 1: dx/dt = noise - x0 is the flow itself, and the step equals that of DDIM. For
other processes this is the probability flow of Song et al. with x0 and the noise in the place of the score; there
sigma' grows without bound towards t = 0, and grid='quadratic' keeps the steps small where it does.

Source: rectified flow, Liu et al. 2023, "Flow Straight and Fast", section 2.1; other processes, Song et al. 2021,
"Score-Based Generative Modeling through Stochastic Differential Equations", equation 13.
Deviations: the step to t = 0 ends at the estimate of x0, which for rectified flow is Euler's step and for the others avoids
the infinite slope. The slope is taken just below each time, on the side where the step goes, since that of a discrete chain
jumps at its steps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.diffusion.contract import Denoiser, Process, Sampled
from moejax.diffusion.stepping import TimeSteps, ask, make_steps

JUST_BELOW = 1.0 - 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler(TimeSteps):
    """num_steps, grid, to_data: see `stepping.TimeSteps`."""

    @property
    def evaluations(self) -> int:
        """One a step."""
        return self.num_steps

    def sample(
        self, process: Process, denoiser: Denoiser, noise: Float[Array, "B ..."], *, key: PRNGKeyArray | None = None,
        record: bool = False,
    ) -> Sampled:  # fmt: skip
        """See `contract.Sampler`; deterministic, a key is not used."""
        grid, alpha, sigma = self.path(process)
        alpha_slope, sigma_slope = slopes(process, grid[:-1])
        stride = np.diff(grid)
        # With x = alpha x0 + sigma noise, x + stride dx/dt in terms of the two estimates.
        data, rest = alpha[:-1] + stride * alpha_slope, sigma[:-1] + stride * sigma_slope
        if self.to_data:
            data[-1], rest[-1] = 1.0, 0.0

        def step(carry, row):
            said = ask(denoiser, carry[0], row["t"])
            return (row["data"] * said.x0 + row["noise"] * said.noise,), said.x0

        rows = {"t": grid[:-1], "data": data, "noise": rest}
        return make_steps(step, (noise.astype(jnp.float32),), rows, record=record)


def slopes(process: Process, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of alpha and sigma just below known times, float64 of float32 accuracy. Source: ours."""
    with jax.ensure_compile_time_eval():
        at = jnp.asarray(grid * JUST_BELOW, jnp.float32)
        found = [jax.jvp(path, (at,), (jnp.ones_like(at),))[1] for path in (process.alpha, process.sigma)]
        return np.asarray(found[0], np.float64), np.asarray(found[1], np.float64)


EXAMPLES = (Euler(num_steps=5), Euler(num_steps=6, grid="quadratic"))
