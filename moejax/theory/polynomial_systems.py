"""How slowly atoms of a fitted mixture may come together: the orders to which their differences can cancel.

Where m fitted atoms share one true atom, the likelihood sees location shifts q_i and scale shifts p_i of weight w_i only
through the sums `residuals`; while these vanish up to order r, the density stays put to that order. r-bar(m) is the least
order at which they cannot, and the exponents of the Voronoi losses follow from it. It is derived here, not looked up.
Source: Ho and Nguyen 2016, "Convergence rates of parameter estimation for some weakly identifiable finite mixtures",
    section 3; for softmax gates Nguyen et al. 2023, "Demystifying softmax gating function in Gaussian mixture of experts",
    section 3: their larger system has the same r-bar.
"""

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from moejax.core.errors import SpecError

_LARGEST = 3  # beyond it r-bar is at least 7, and no closed form is known
_STARTS = 40
_SOLVED = 1e-9  # largest residual of a system that is taken for solved; unsolvable ones stay above 1e-4


@dataclasses.dataclass(frozen=True)
class Solution:
    """weights, shifts (of location), scales (half the shift of variance): [m] each. residual: largest of the sums that remains."""

    weights: Float[np.ndarray, "_"]
    shifts: Float[np.ndarray, "_"]
    scales: Float[np.ndarray, "_"]
    residual: float


def residuals(weights: Any, shifts: Any, scales: Any, order: int) -> list[Any]:
    """Sum_i w_i sum_{a + 2b = s} q_i^a p_i^b / (a! b!) for s = 1..order; exact where the numbers are Fractions.

    It is the coefficient of t^s in sum_i w_i exp(q_i t + p_i t^2), whose derivative gives each from the two before it.
    Source: Ho and Nguyen 2016, equation 8.
    """
    w, q, p = (np.asarray(values) for values in (weights, shifts, scales))
    coefficients = [0 * q, 0 * q + 1]  # the one before t^0, and that of t^0
    for s in range(1, order + 1):
        coefficients.append((q * coefficients[-1] + 2 * p * coefficients[-2]) / s)
    return [np.sum(w * c) for c in coefficients[2:]]


def two_atoms(ratio: Fraction) -> tuple[list[Fraction], list[Fraction], list[Fraction]]:
    """The one family (weights, shifts, scales) of two atoms that solves orders 1 to 3, for weights in this ratio > 0. Exact.

    Shifts are (1, -ratio) by order 1, up to a common factor; orders 2 and 3 are linear in the scales. Source: ours.
    """
    weights, shifts = [ratio, Fraction(1)], [Fraction(1), -ratio]
    second = -(ratio * shifts[0] ** 2 + shifts[1] ** 2) / 2  # = w1 p1 + w2 p2
    third = -(ratio * shifts[0] ** 3 + shifts[1] ** 3) / 6  # = w1 q1 p1 + w2 q2 p2
    first_scale = (third - shifts[1] * second) / (ratio * (shifts[0] - shifts[1]))
    return weights, shifts, [first_scale, second - ratio * first_scale]


def fourth_order(ratio: Fraction) -> Fraction:
    """What remains at order 4 of `two_atoms`: negative for every ratio, so that four orders never cancel."""
    return Fraction(residuals(*two_atoms(ratio), order=4)[3])


def best_solution(num_atoms: int, order: int, *, seed: int = 0) -> Solution:
    """The nearest to a solution of orders 1..order that is found from many starts, at sum_i w_i q_i^2 = 1 and sum_i w_i = 1.

    The scale of the shifts is free, so that this excludes nothing but shifts that are all zero. Source: ours.
    """
    draw = np.random.default_rng(seed)
    best = _descend(draw, num_atoms, order)
    for _ in range(_STARTS - 1):
        if best.residual < _SOLVED:
            break
        best = min(best, _descend(draw, num_atoms, order), key=lambda solution: solution.residual)
    return best


@functools.cache
def r_bar(num_atoms: int) -> int:
    """The least order at which the shifts of `num_atoms` atoms cannot cancel: 1, 4, 6 for 1, 2, 3 atoms.

    Solutions are found to rounding, or not at all from many starts, which is evidence and no proof; for two atoms `fourth_order` is
    the proof, as all coefficients of it in the ratio have one sign.
    Raises SpecError for more atoms. Source: Ho and Nguyen 2016, proposition 3.1.
    """
    if not 1 <= num_atoms <= _LARGEST:
        raise SpecError(
            f"r-bar of {num_atoms} atoms in one cell: it is known for 1 to {_LARGEST} alone (at least 7 beyond). Fit fewer atoms."
        )
    order = 1
    while best_solution(num_atoms, order).residual < _SOLVED:
        order += 1
    return order


def _descend(draw: np.random.Generator, num_atoms: int, order: int) -> Solution:
    """Least squares from a random start."""

    def unpacked(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        logits, shifts, scales = np.split(x, 3)
        weights = np.exp(logits - logits.max())
        weights /= weights.sum()
        spread = math.sqrt(float(np.sum(weights * shifts**2)))
        return weights, shifts / max(spread, 1e-300), scales

    def sums(x: np.ndarray) -> np.ndarray:
        return np.array(residuals(*unpacked(x), order=order), np.float64)

    # Weights stay within e^6 of each other: towards 0 an atom could run off, and the sums with it.
    bounds = np.concatenate([np.full(num_atoms, 3.0), np.full(num_atoms, 10.0), np.full(num_atoms, 20.0)])
    start = np.clip(draw.standard_normal(3 * num_atoms), -0.9 * bounds, 0.9 * bounds)
    fit = least_squares(sums, start, bounds=(-bounds, bounds), xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=400)
    weights, shifts, scales = unpacked(fit.x)
    return Solution(weights, shifts, scales, float(np.max(np.abs(sums(fit.x)))))
