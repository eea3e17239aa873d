"""Numbers that are means or shares over seeds, with intervals that hold for few of them.

Source: ours; Student's interval for means, that of Clopper and Pearson (1934) for shares.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from moejax.core.errors import SpecError
from moejax.theory.findings import Curve, Expected, Finding, judged, untestable

_FEWEST_SEEDS = 3


def check_seeds(num_seeds: int) -> None:
    """Raises SpecError for fewer seeds than give an interval."""
    if num_seeds < _FEWEST_SEEDS:
        raise SpecError(f"num_seeds={num_seeds} gives no interval; use at least {_FEWEST_SEEDS}.")


def mean_finding(expected: Expected, values: Float[np.ndarray, "_"]) -> Finding:
    """The mean of values [seeds]; those that are not finite are failed runs. 'not testable' with fewer than 3 left."""
    finite = values[np.isfinite(values)]
    failed = len(values) - len(finite)
    if len(finite) < _FEWEST_SEEDS:
        return untestable(expected, f"{failed} of {len(values)} seeds gave no finite number.", failed=failed)
    half = float(stats.t.ppf(0.975, len(finite) - 1)) * float(np.std(finite, ddof=1)) / math.sqrt(len(finite))
    centre = float(np.mean(finite))
    return judged(expected, centre, (centre - half, centre + half), replicates=(len(finite),), failed=failed)


def share_finding(expected: Expected, held: Bool[np.ndarray, "_"], *, failed: int = 0) -> Finding:
    """The share of seeds in which something held."""
    interval = stats.binomtest(int(held.sum()), len(held)).proportion_ci()
    measured = float(np.mean(held))
    return judged(
        expected, measured, (float(interval.low), float(interval.high)), replicates=(len(held),), failed=failed
    )


def seed_curve(label: str, x: Float[np.ndarray, "_"], values: Float[np.ndarray, "_ _"]) -> Curve:
    """The mean over seeds of values [seeds, P] over x [P], between the least and the largest."""
    return Curve(label=label, x=x, y=values.mean(axis=0), low=values.min(axis=0), high=values.max(axis=0))
