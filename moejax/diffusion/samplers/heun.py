"""Heun's method on the probability flow: an Euler step, and its average with the slope at its end; two evaluations a step.

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", algorithm 1.
Deviations: of the scales and noise levels that their equation 4 leaves free, the paper prefers x / alpha over
sigma / alpha; here it is x / (alpha + sigma) over sigma / (alpha + sigma), which exists where alpha is 0 and for rectified
flow is the flow itself (moejax/diffusion/stages.py, 'flow'). As in the paper, the step to t = 0 is Euler's.
"""

import dataclasses

from jaxtyping import Array, Float, PRNGKeyArray

from moejax.diffusion.contract import Denoiser, Process, Sampled
from moejax.diffusion.stages import Stage, run_stages
from moejax.diffusion.stepping import TimeSteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(TimeSteps):
    """num_steps, grid, to_data: see `stepping.TimeSteps`. grid='karras' is the paper's spread of the noise levels."""

    grid: str = "auto"

    @property
    def evaluations(self) -> int:
        """Two a step, one in the step to t = 0."""
        return 2 * self.num_steps - (1 if self.to_data else 0)

    def sample(
        self, process: Process, denoiser: Denoiser, noise: Float[Array, "B ..."], *, key: PRNGKeyArray | None = None,
        record: bool = False,
    ) -> Sampled:  # fmt: skip
        """See `contract.Sampler`; deterministic, a key is not used."""
        grid = self.times(process).tolist()
        stages = []
        for t, s in zip(grid[:-1], grid[1:], strict=True):
            stages.append(Stage(t=t, start=t, to=s, weights=(1.0, 0.0), ends=s == 0.0))
            if s > 0.0:
                stages.append(Stage(t=s, start=t, to=s, weights=(0.5, 0.5)))
        return run_stages("flow", stages, process, denoiser, noise, record=record)


EXAMPLES = (Heun(num_steps=4), Heun(num_steps=3, grid="karras", to_data=False))
