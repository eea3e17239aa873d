"""Phases of the noise: intervals of the time that are equally long in the logarithm of the signal-to-noise ratio."""

import math

import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError
from moejax.diffusion.contract import Process

_EDGE = 1e-3  # how far from an end of the path with an infinite ratio the range stops


def log_snr(process: Process, t: np.ndarray) -> np.ndarray:
    """log(alpha^2 / sigma^2), float64; falls with the time. Source: Kingma et al. 2021, "Variational Diffusion Models"."""
    time = jnp.asarray(t, jnp.float32)
    with np.errstate(divide="ignore"):
        alpha, sigma = (np.log(np.asarray(value, np.float64)) for value in (process.alpha(time), process.sigma(time)))
    return 2.0 * (alpha - sigma)


def snr_phases(process: Process, num_phases: int) -> tuple[int, ...]:
    """The first whole model step of each phase but the least noisy: `boundaries` for the router `time_groups`.

    The phases cut the range of log SNR between the process's min_time and max_time alike (0.001 inside an end where the
    ratio is infinite). Raises SpecError for less than one phase, or more than there are steps to tell them apart.
    Source: Fan et al. 2025, "Phased DMD" (phases of the SNR range, each with its own expert).
    Deviations: equal in log SNR; the paper fits its phases to a few sampling steps.
    """
    if num_phases < 1:
        raise SpecError(f"num_phases={num_phases} must be at least 1.")
    first, last = process.min_time, process.max_time
    first += 0.0 if np.isfinite(log_snr(process, np.asarray([first]))[0]) else _EDGE
    last -= 0.0 if np.isfinite(log_snr(process, np.asarray([last]))[0]) else _EDGE
    high, low = log_snr(process, np.asarray([first, last]))
    wanted = np.linspace(high, low, num_phases + 1)[1:-1]
    left, right = np.full(wanted.shape, first), np.full(wanted.shape, last)
    for _ in range(30):  # to float32's resolution of the time
        middle = (left + right) / 2
        before = log_snr(process, middle) > wanted
        left, right = np.where(before, middle, left), np.where(before, right, middle)
    times = np.asarray(process.model_time(jnp.asarray(right, jnp.float32)), np.float64)
    steps = tuple(math.ceil(time - 0.01) for time in times)  # float32 near the ends knows no better
    if len(set(steps)) < len(steps):
        raise SpecError(f"num_phases={num_phases} is too many: some of its phases start at the same step, {steps}.")
    return steps
