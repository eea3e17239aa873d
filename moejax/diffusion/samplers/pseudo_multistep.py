"""Pseudo linear multistep (PNDM): steps of DDIM's form with the noise estimate of a four-step Adams-Bashforth formula,
after three steps of a pseudo Runge-Kutta method.

The transfer phi(x, noise, t, s) = alpha_s / alpha_t (x - sigma_t noise) + sigma_s noise is the step of DDIM. A step takes
noise = (55 e_t - 59 e_{t+1} + 37 e_{t+2} - 9 e_{t+3}) / 24 of the last four estimates. The first three ask four times:
at t, twice at the middle of the step and at its end, mixed (1, 2, 2, 1) / 6.

Source: Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds", equations 11 to 13, algorithm 2
(F-PNDM). Order of convergence: 2 (their theorem on the order of PNDMs): the formula averages the noise evenly over the
step, while the exact transfer weighs it by the change of sigma / alpha. Where that changes evenly from step to step, both
agree, and the order is 4.
Deviations: of the four estimates of a warm-up step the first is remembered, as in the authors' code.
"""

import dataclasses

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.diffusion.contract import Denoiser, Process, Sampled
from moejax.diffusion.stages import Stage, run_stages
from moejax.diffusion.stepping import TimeSteps
from moejax.diffusion.time_grids import alpha_sigma

ADAMS_BASHFORTH = (55 / 24, -59 / 24, 37 / 24, -9 / 24)  # of the newest estimate first
WARM_UP = 3  # steps
KEPT = 5  # places for estimates: three for the multistep formula, two within a warm-up step


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoMultistep(TimeSteps):
    """num_steps (at least 4), grid, to_data: see `stepping.TimeSteps`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps <= WARM_UP:
            raise SpecError(
                f"sampler.num_steps={self.num_steps} must be at least {WARM_UP + 1}: the first {WARM_UP} only warm up. "
                "Use ddim for fewer."
            )

    @property
    def evaluations(self) -> int:
        """One a step, and three more in each of the three warm-up steps."""
        return self.num_steps + 3 * WARM_UP

    def sample(
        self, process: Process, denoiser: Denoiser, noise: Float[Array, "B ..."], *, key: PRNGKeyArray | None = None,
        record: bool = False,
    ) -> Sampled:  # fmt: skip
        """See `contract.Sampler`; deterministic, a key is not used.

        Raises SpecError where nothing of the data is left at the process's max_time: the transfer divides by alpha.
        """
        grid = self.times(process).tolist()
        if alpha_sigma(process, (grid[0],))[0][0] == 0.0:
            raise SpecError(
                f"pseudo_multistep divides by alpha, and {type(process).__name__} has alpha(max_time={grid[0]}) = 0. Set "
                "the process's max_time=0.999, or use heun or dpm_solver_pp."
            )
        stages = []
        for number, (t, s) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
            place = number % WARM_UP
            stages += _runge_kutta(t, s, place) if number < WARM_UP else [_multistep(t, s, place)]
        return run_stages("noise", stages, process, denoiser, noise, record=record)


def _multistep(t: float, s: float, place: int) -> Stage:
    """The estimates of the last three steps lie in the places before `place`, the oldest one in `place` itself."""
    weights = [0.0] * (1 + KEPT)
    weights[0] = ADAMS_BASHFORTH[0]
    for age in range(1, WARM_UP + 1):
        weights[1 + (place - age) % WARM_UP] = ADAMS_BASHFORTH[age]
    return Stage(t=t, start=t, to=s, weights=tuple(weights), keep=place)


def _runge_kutta(t: float, s: float, place: int) -> list[Stage]:
    """Four evaluations; the first is kept in `place`, the second and third in the two last places."""
    middle = float(np.float32((t + s) / 2))
    alone = (1.0, *[0.0] * KEPT)
    mixed = [1 / 6, *[0.0] * WARM_UP, 2 / 6, 2 / 6]
    mixed[1 + place] = 1 / 6
    first, second = KEPT - 2, KEPT - 1
    return [
        Stage(t=t, start=t, to=middle, weights=alone, keep=place, ends=False),
        Stage(t=middle, start=t, to=middle, weights=alone, keep=first, ends=False),
        Stage(t=middle, start=t, to=s, weights=alone, keep=second, ends=False),
        Stage(t=s, start=t, to=s, weights=tuple(mixed), keep=second),
    ]


EXAMPLES = (PseudoMultistep(num_steps=5), PseudoMultistep(num_steps=6, to_data=False))
