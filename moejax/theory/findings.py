"""Numbers that are claimed, numbers that were measured, and what follows; and the curves that show them. Source: ours."""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Float

Verdict = Literal["confirmed", "confirmed with the corrected protocol", "artefact", "not confirmed", "not testable"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """A number that theory or a paper gives: of which quantity, and within what of it a measurement agrees.

    value: a slope over log n unless `why` says otherwise. summary: of the errors of the replicates (`rates.SUMMARIES`), at sizes
    from `first_size` on. published: the number of the paper's own figure or table, None where it gives none. agreed: the verdict
    where the measurement agrees. why: what the number stands for and where it is from, one sentence.
    """

    quantity: str
    value: float
    tolerance: float
    summary: str = "mean"
    first_size: int = 0
    published: float | None = None
    agreed: Verdict = "confirmed"
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What was measured of what was expected. interval: 95 %. failed: fits that are not in it, of all replicates at all sizes.

    reason: of a verdict 'not testable', else ''.
    """

    expected: Expected
    measured: float
    interval: tuple[float, float]
    verdict: Verdict
    sizes: tuple[int, ...] = ()
    replicates: tuple[int, ...] = ()
    failed: int = 0
    reason: str = ""


def judged(
    expected: Expected,
    measured: float,
    interval: tuple[float, float],
    *,
    sizes: tuple[int, ...] = (),
    replicates: tuple[int, ...] = (),
    failed: int = 0,
) -> Finding:
    """The finding that a measurement makes: it agrees within the tolerance, and disagrees beyond it.

    Where it disagrees and its interval still reaches into the tolerance, nothing is decided: 'not testable', and the reason says so.
    """
    verdict, reason = expected.agreed, ""
    if not (math.isfinite(measured) and abs(measured - expected.value) <= expected.tolerance):
        low, high = expected.value - expected.tolerance, expected.value + expected.tolerance
        verdict = "not confirmed"
        if interval[0] <= high and interval[1] >= low:
            verdict = "not testable"
            reason = f"the interval [{interval[0]:.3g}, {interval[1]:.3g}] is too wide to tell; use more sizes or replicates."
    return Finding(
        expected=expected,
        measured=measured,
        interval=interval,
        verdict=verdict,
        sizes=sizes,
        replicates=replicates,
        failed=failed,
        reason=reason,
    )


def untestable(expected: Expected, reason: str, *, failed: int = 0) -> Finding:
    """The finding that there is no number, and why."""
    nan = math.nan
    return Finding(
        expected=expected, measured=nan, interval=(nan, nan), verdict="not testable", failed=failed, reason=reason
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """A line of a chart: y [P] over x [P], with a band from low to high where they are given."""

    label: str
    x: Float[np.ndarray, "_"]
    y: Float[np.ndarray, "_"]
    low: Float[np.ndarray, "_"] | None = None
    high: Float[np.ndarray, "_"] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """The picture of a study. logarithmic: both axes."""

    curves: tuple[Curve, ...]
    x_label: str = "examples n"
    y_label: str = "error"
    logarithmic: bool = True
