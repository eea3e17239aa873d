"""At which times a sampler stands: num_steps + 1 of them, downwards from the process's last time.

| grid | the times are even in |
|---|---|
| uniform | t |
| quadratic | sqrt(t) |
| log_snr | log(alpha / sigma) |
| karras | (sigma / alpha)^(1/7) |
| respaced | the steps of a discrete chain, the first and the last among them |
| auto | t for rectified flow, sqrt(t) for every other process: what tests/diffusion/test_samplers_quality.py found better |

The last time is 0 (the data) where a sampler goes `to_data`, and the denoiser is never asked there; otherwise it is the
process's min_time. With `to_data`, 'uniform' goes to 0 evenly; the others reach min_time evenly and jump from there.

Source: uniform and quadratic, Song et al. 2021, "Denoising Diffusion Implicit Models", appendix D.2; log_snr, Lu et al.
2022, "DPM-Solver", section 3.3; karras, Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
Models", equation 5; respaced, Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", section 4.
Deviations: 'quadratic' is not rounded to steps of a chain.
"""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.diffusion.contract import Process

GRIDS = ("uniform", "quadratic", "log_snr", "karras", "respaced", "auto")
KARRAS_POWER = 7.0
BISECTIONS = 40  # more than float32 times have bits


def check_grid(grid: str, num_steps: int) -> None:
    """Raises SpecError for an unknown grid or no steps."""
    if grid not in GRIDS:
        raise SpecError(f"sampler.grid={grid!r} is unknown.{did_you_mean(grid, GRIDS)}")
    if num_steps < 1:
        raise SpecError(f"sampler.num_steps={num_steps} must be at least 1.")


def times(process: Process, grid: str, num_steps: int, to_data: bool = True) -> tuple[float, ...]:
    """num_steps + 1 falling times, each exact in float32.

    Raises SpecError where the process has no such grid: more steps than fit above min_time, 'respaced' without a chain,
    'log_snr' or 'karras' where nothing of the data is left at max_time.
    """
    check_grid(grid, num_steps)
    grid = _suited(process) if grid == "auto" else grid
    if grid == "respaced":
        found = _respaced(process, num_steps, to_data)
    elif grid == "uniform" and to_data:
        found = np.linspace(process.max_time, 0.0, num_steps + 1)
    else:
        count = num_steps if to_data else num_steps + 1
        found = np.append(_even(process, grid, count), [0.0] if to_data else [])
    found = found.astype(np.float32)
    last = found[:-1].min() if to_data else found.min()
    if np.any(np.diff(found) >= 0) or last < process.min_time * (1 - 1e-5):
        raise SpecError(
            f"sampler.num_steps={num_steps} with grid={grid!r} does not fit between max_time={process.max_time} and "
            f"min_time={process.min_time}: the least time asked for would be {last:.3g}. Use fewer steps."
        )
    return tuple(found.tolist())


def alpha_sigma(process: Process, grid: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Both functions of the path at known times, float64 [len(grid)] of float32 accuracy; also while a function is being compiled.

    Source: ours.
    """
    with jax.ensure_compile_time_eval():
        at = jnp.asarray(np.asarray(grid, np.float32))
        return np.asarray(process.alpha(at), np.float64), np.asarray(process.sigma(at), np.float64)


def _even(process: Process, grid: str, count: int) -> np.ndarray:
    """`count` times from max_time to min_time; for a count of 1, max_time alone."""
    first, last = process.max_time, process.min_time
    if grid == "uniform":
        return np.linspace(first, last, count)
    if grid == "quadratic":
        return np.linspace(np.sqrt(first), np.sqrt(last), count) ** 2
    alpha, sigma = alpha_sigma(process, (first, last))
    if alpha[0] == 0.0:
        raise SpecError(
            f"sampler.grid={grid!r} needs something of the data at the last time, and {type(process).__name__} has "
            f"alpha(max_time={first}) = 0. Use grid='uniform' or 'quadratic', or set the process's max_time=0.999."
        )
    ratio = np.log(sigma / alpha)
    if grid == "log_snr":
        wanted = np.linspace(ratio[0], ratio[1], count)
    else:
        ends = np.exp(ratio / KARRAS_POWER)
        wanted = KARRAS_POWER * np.log(np.linspace(ends[0], ends[1], count))
    inner = _times_of(process, wanted[1:-1])
    return np.concatenate([[first], inner, [last]])[:count]


def _times_of(process: Process, log_ratio: np.ndarray) -> np.ndarray:
    """Times at which log(sigma / alpha), which rises with t, has these values: by bisection."""
    low = np.full(log_ratio.shape, process.min_time, np.float32)
    high = np.full(log_ratio.shape, process.max_time, np.float32)
    for _ in range(BISECTIONS if log_ratio.size else 0):
        middle = (low + high) / 2
        alpha, sigma = alpha_sigma(process, tuple(middle.tolist()))
        below = np.log(sigma / alpha) < log_ratio
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _respaced(process: Process, num_steps: int, to_data: bool) -> np.ndarray:
    """Times (i + 1) / length of evenly spread steps i of the chain, rounded to whole ones."""
    length = getattr(process, "num_steps", None)
    if length is None:
        raise SpecError(
            f"sampler.grid='respaced' picks steps of a discrete chain; {type(process).__name__} has none. Use 'uniform'."
        )
    count = num_steps if to_data else num_steps + 1
    if count > length:
        raise SpecError(f"sampler.num_steps={num_steps} is more than the chain has: process.num_steps={length}.")
    steps = np.round(np.linspace(length - 1, 0, count))
    return np.append((steps + 1) / length, [0.0] if to_data else [])


def _suited(process: Process) -> str:
    alpha, sigma = alpha_sigma(process, (0.5,))
    return "uniform" if abs(float(alpha[0] + sigma[0]) - 1.0) < 1e-6 else "quadratic"
