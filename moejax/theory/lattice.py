"""Likelihoods that cost the same for a hundred observations and for ten thousand million.

Inputs take m fixed values, responses those of a grid so fine that sums of Gaussian densities over it equal one to rounding; the
data are then the counts of the cells, drawn from a multinomial distribution, and the likelihood is exact.
Source: ours; the error of the sums, about 2 exp(-2 pi^2 variance / step^2), is that of the trapezoidal rule (Trefethen and
Weideman 2014, section 5).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from moejax.core.errors import SpecError

_COARSEST = 0.8  # steps per standard deviation at which the sums are still exact to 1e-13


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lattice:
    """num_inputs values of x, evenly from `inputs[0]` to `inputs[1]`; y every `step` from `responses[0]` to `responses[1]`."""

    num_inputs: int = 24
    inputs: tuple[float, float] = (-1.0, 1.0)
    step: float = 0.2
    responses: tuple[float, float] = (-8.0, 8.0)

    def __post_init__(self) -> None:
        if self.num_inputs < 2 or self.step <= 0 or self.responses[0] >= self.responses[1]:
            raise SpecError(
                f"a lattice needs at least 2 inputs (num_inputs={self.num_inputs}), step={self.step} above 0 and responses "
                f"{self.responses} that ascend."
            )

    def check(self, variance: float) -> None:
        """Raises SpecError where the grid is too coarse for densities of this variance."""
        if self.step > _COARSEST * math.sqrt(variance):
            raise SpecError(
                f"lattice.step={self.step} is too coarse for a variance of {variance}: its sums would not be one. Use at most "
                f"{_COARSEST * math.sqrt(variance):.3g}."
            )

    @property
    def x(self) -> Float[np.ndarray, "_"]:
        """The inputs of all cells [m * c]."""
        return np.repeat(np.linspace(*self.inputs, self.num_inputs), self._num_responses)

    @property
    def y(self) -> Float[np.ndarray, "_"]:
        """The responses of all cells [m * c]."""
        grid = self.responses[0] + self.step * np.arange(self._num_responses)
        return np.tile(grid, self.num_inputs)

    def probabilities(self, log_density: Float[np.ndarray, "_"]) -> Float[np.ndarray, "_"]:
        """Of all cells, from the log-density of y given x in each; every input as likely as any other.

        Raises SpecError where the grid does not hold the mass: it is too coarse or too short.
        """
        mass = np.exp(log_density) * self.step / self.num_inputs
        missing = np.abs(mass.reshape(self.num_inputs, -1).sum(axis=1) * self.num_inputs - 1).max()
        if missing > 1e-9:
            raise SpecError(
                f"the lattice misses {missing:.2g} of the probability at some input; widen responses={self.responses} or lower "
                f"step={self.step}."
            )
        return mass / mass.sum()

    def counts(
        self, probabilities: Float[np.ndarray, "_"], num_examples: int, draw: np.random.Generator
    ) -> Int[np.ndarray, "_"]:
        """How many of n observations fall into each cell."""
        return draw.multinomial(num_examples, probabilities)

    @property
    def _num_responses(self) -> int:
        return round((self.responses[1] - self.responses[0]) / self.step) + 1
