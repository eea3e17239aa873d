"""DDIM: estimate data and noise, and put them together again at the next time; eta draws some of the noise anew.

x_s = alpha_s x0 + sqrt(sigma_s^2 - v) noise + sqrt(v) fresh, v = eta^2 times the variance of q(x_s | x_t, x_0).

Source: Song et al. 2021, "Denoising Diffusion Implicit Models", equations 12 and 16.
Deviations: alpha and sigma are those of any process, alpha^2 + sigma^2 = 1 or not.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.diffusion.contract import Denoiser, Process, Sampled
from moejax.diffusion.stepping import TimeSteps, ask, make_steps, step_keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(TimeSteps):
    """eta: 0 is deterministic, a first-order solver of the probability flow; 1 is ancestral sampling with the small variance.

    num_steps, grid, to_data: see `stepping.TimeSteps`.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.eta <= 1.0:
            raise SpecError(
                f"sampler.eta={self.eta} must lie in [0, 1]: 0 draws no noise, 1 as much as ancestral sampling."
            )

    @property
    def evaluations(self) -> int:
        """One a step."""
        return self.num_steps

    def sample(
        self, process: Process, denoiser: Denoiser, noise: Float[Array, "B ..."], *, key: PRNGKeyArray | None = None,
        record: bool = False,
    ) -> Sampled:  # fmt: skip
        """See `contract.Sampler`. Raises SpecError when eta > 0 and there is no key."""
        grid, alpha, sigma = self.path(process)
        fresh = self.eta * _posterior_std(alpha, sigma)
        rows: dict[str, Any] = {
            "t": grid[:-1],
            "data": alpha[1:],
            "noise": np.sqrt(np.maximum(sigma[1:] ** 2 - fresh**2, 0.0)),
            "fresh": fresh,
        }
        if self.eta > 0.0:
            rows["key"] = step_keys(self, key)

        def step(carry, row):
            said = ask(denoiser, carry[0], row["t"])
            x = row["data"] * said.x0 + row["noise"] * said.noise
            if self.eta > 0.0:
                x = x + row["fresh"] * jax.random.normal(row["key"], x.shape, jnp.float32)
            return (x,), said.x0

        return make_steps(step, (noise.astype(jnp.float32),), rows, record=record)


def _posterior_std(alpha: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Standard deviation of q(x_s | x_t, x_0) for each neighbouring pair s < t of falling times."""
    added = sigma[:-1] ** 2 - (alpha[:-1] / alpha[1:] * sigma[1:]) ** 2
    return np.sqrt(np.maximum(added, 0.0)) * sigma[1:] / sigma[:-1]


EXAMPLES = (DDIM(num_steps=5), DDIM(num_steps=4, eta=0.5, grid="quadratic"), DDIM(num_steps=6, to_data=False))
