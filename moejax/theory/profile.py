"""Maximum likelihood for the hard gate of two experts over one input, exact: every place of the boundary is tried.

With one selected expert the gate is one or zero, and the likelihood sees of it only which inputs go left and which right. It
jumps as the boundary passes an example, so that no gradient finds the boundary; but sorted inputs have n - 1 places for it, and
sums from the left and from the right give both regressions at each.
Source: ours; for the model Nguyen et al. 2024 ("Top-K sparse softmax gating"), equation 2 with K = 1.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True)
class Side:
    """Of one side of the boundary: y = weight * x + bias + noise of this variance."""

    weight: float
    bias: float
    variance: float


@dataclasses.dataclass(frozen=True)
class TwoSides:
    """boundary: halfway between the examples beside it, value: log-likelihood per example, left and right of the boundary."""

    boundary: float
    value: float
    left: Side
    right: Side


def fit_two_sides(x: Float[np.ndarray, "_"], y: Float[np.ndarray, "_"], *, fewest: int = 5) -> TwoSides:
    """In O(n log n). fewest: examples on a side, so that no side fits its own exactly, which would make the likelihood infinite.

    Raises SpecError where no place of the boundary leaves `fewest` (at least 3) on both sides, and for inputs that are not finite.
    """
    if fewest < 3 or len(x) < 2 * fewest:
        raise SpecError(
            f"{len(x)} examples leave no two sides of fewest={fewest}; use at least twice as many, and 3 or more."
        )
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise SpecError("an input or a response is not finite; leave such examples out.")
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    features = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    # Each side is summed from its own end: a difference of long sums would drown a short side.
    left = np.cumsum(features, axis=1)[:, :-1]
    right = np.cumsum(features[:, ::-1], axis=1)[:, ::-1][:, 1:]
    places = np.flatnonzero((x[1:] > x[:-1]) & (left[0] >= fewest) & (right[0] >= fewest))
    if not len(places):
        raise SpecError(
            "no two neighbouring inputs differ where both sides have enough examples; use inputs that vary."
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        fits = [_regression(sums[:, places]) for sums in (left, right)]
        lost = sum(sums[0, places] * np.log(fit[2]) for sums, fit in zip((left, right), fits, strict=True))
    best = int(np.nanargmin(lost))
    split = places[best]
    sides = [Side(*(float(values[best]) for values in fit)) for fit in fits]
    value = -0.5 * (float(lost[best]) / len(x) + math.log(2 * math.pi) + 1)
    return TwoSides(float(x[split] + x[split + 1]) / 2, value, *sides)


def _regression(sums: Float[np.ndarray, "6 _"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight, bias and variance from the sums of (1, x, y, x x, x y, y y); NaN where the inputs are all one."""
    count, x, y, xx, xy, yy = sums
    across, along = xy - x * y / count, xx - x * x / count
    weight = across / np.where(along > 0, along, np.nan)
    variance = (yy - y * y / count - weight * across) / count
    return weight, (y - weight * x) / count, np.where(variance > 0, variance, np.nan)
