"""DPM-Solver++(2M): the exact solution of the linear part of the probability flow in log(alpha / sigma), with the data
estimate extrapolated from the present and the last evaluation.

With lambda = log(alpha / sigma) and h the step in it: x_s = sigma_s / sigma_t x_t - alpha_s (exp(-h) - 1) D,
D = (1 + 1 / (2 r)) x0(t) - 1 / (2 r) x0(before t), r = h before / h.

Source: Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", algorithm 2.
Deviations: the step to t = 0, where h is infinite, is the first-order one (D = x0(t)) and gives the estimate of x0.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.diffusion.contract import Denoiser, Process, Sampled
from moejax.diffusion.stepping import TimeSteps, ask, make_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolverPP(TimeSteps):
    """lower_order_last: the last step is first order, also where it does not go to t = 0; steadier with few steps.

    num_steps, grid, to_data: see `stepping.TimeSteps`. 'log_snr', which makes all h equal, is that of the paper's analysis.
    """

    grid: str = "auto"
    lower_order_last: bool = False

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
        rows = {"t": grid[:-1], **self._coefficients(alpha, sigma)}

        def step(carry, row):
            x, before = carry
            x0 = ask(denoiser, x, row["t"]).x0
            x = row["x"] * x + row["data"] * ((1.0 + row["lead"]) * x0 - row["lead"] * before)
            return (x, x0), x0

        x = noise.astype(jnp.float32)
        return make_steps(step, (x, jnp.zeros_like(x)), rows, record=record)

    def _coefficients(self, alpha: np.ndarray, sigma: np.ndarray) -> dict[str, np.ndarray]:
        """[num_steps] each: 'x' of x_t, 'data' of D, 'lead' = 1 / (2 r), which is 0 in first-order steps."""
        shrink = sigma[1:] / sigma[:-1]
        with np.errstate(divide="ignore"):  # infinite at both ends where nothing of the noise or of the data is left
            half_log_snr = np.log(alpha) - np.log(sigma)
        stride = np.diff(half_log_snr)
        lead = np.zeros(self.num_steps)
        lead[1:] = 0.5 * stride[1:] / stride[:-1]
        if self.to_data or self.lower_order_last:
            lead[-1] = 0.0
        # alpha_s (1 - exp(-h)) without the infinite h.
        return {"x": shrink, "data": alpha[1:] - shrink * alpha[:-1], "lead": lead}


EXAMPLES = (DPMSolverPP(num_steps=5), DPMSolverPP(num_steps=4, grid="log_snr", lower_order_last=True, to_data=False))
