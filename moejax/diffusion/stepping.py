"""What samplers share: their steps in time, and the scan that makes the steps.

All times are known before anything is compiled. A step is a row of numbers, found on the host in float64, and one
`lax.scan` runs over the rows; the denoiser is therefore compiled once, however many steps there are.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.diffusion.contract import Denoised, Denoiser, Process, Sampled
from moejax.diffusion.time_grids import alpha_sigma, check_grid, times

Rows = Mapping[str, Any]
Step = Callable[[Any, Any], tuple[Any, Float[Array, "B ..."]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimeSteps:
    """num_steps: intervals between the sampler's times. grid: how these are spread (moejax/diffusion/time_grids.py).

    to_data: the last step ends at t = 0; otherwise the samples still have the noise of the process's min_time.
    """

    num_steps: int = 50
    grid: str = "uniform"
    to_data: bool = True

    def __post_init__(self) -> None:
        check_grid(self.grid, self.num_steps)

    def times(self, process: Process) -> np.ndarray:
        """Falling times, float64 [num_steps + 1]. Raises SpecError where the grid does not fit the process."""
        return np.asarray(times(process, self.grid, self.num_steps, self.to_data), np.float64)

    def path(self, process: Process) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The times, and alpha and sigma there; float64 [num_steps + 1] each."""
        grid = self.times(process)
        return grid, *alpha_sigma(process, tuple(grid.tolist()))


def ask(denoiser: Denoiser, x: Float[Array, "B ..."], t: Float[Array, ""]) -> Denoised:
    """The denoiser's estimates for a whole batch at one time, float32."""
    said = denoiser(x, jnp.broadcast_to(t, x.shape[:1]))
    return jax.tree.map(lambda part: part.astype(jnp.float32), said)


def make_steps(step: Step, carry: Any, rows: Rows, *, record: bool) -> Sampled:
    """Runs `step(carry, row) -> (carry, estimate of x0)` over the rows; carry[0] is x.

    rows: numpy arrays of equal length (made float32), or keys.
    """
    device_rows = {k: jnp.asarray(v, jnp.float32) if isinstance(v, np.ndarray) else v for k, v in rows.items()}
    first = carry[0]

    def body(carry: Any, row: Any) -> tuple[Any, Any]:
        carry, estimate = step(carry, row)
        return carry, (carry[0], estimate) if record else None

    carry, kept = jax.lax.scan(body, carry, device_rows)
    if not record:
        return Sampled(x=carry[0])
    return Sampled(x=carry[0], path=jnp.concatenate([first[None], kept[0]]), estimates=kept[1])


def step_keys(sampler: TimeSteps, key: PRNGKeyArray | None) -> Array:
    """[num_steps] keys, one for each step. Raises SpecError without a key to make them from."""
    if key is None:
        raise SpecError(f"{sampler} draws noise at every step: give sample() a key=jax.random.key(seed).")
    return jax.random.split(key, sampler.num_steps)
