"""Slopes of errors that are known, their intervals, and what is refused."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.findings import Expected, judged
from moejax.theory.rates import error_curves, rate, rate_findings

SIZES = (100, 1000, 10_000, 100_000)


def noisy(slope, constant, replicates, seed):
    draw = np.random.default_rng(seed)
    return {n: constant * n**slope * np.abs(draw.standard_normal(replicates)) for n in SIZES}


def test_an_exact_law_has_its_slope_and_constant():
    errors = {n: np.full(6, 7.0 * n**-0.25) for n in SIZES}
    for summary in ("mean", "median", "q90"):
        found = rate(errors, summary=summary)
        assert found.slope == pytest.approx(-0.25) and found.constant == pytest.approx(7.0)
        assert found.interval == pytest.approx((-0.25, -0.25))
    assert found.sizes == SIZES and found.replicates == (6, 6, 6, 6) and found.failed == 0


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = 0
    for seed in range(200):
        low, high = rate(noisy(-0.5, 3.0, 40, seed), resamples=300, seed=seed).interval
        held += low <= -0.5 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_fits_that_failed_are_counted():
    errors = noisy(-0.5, 1.0, 20, 0)
    errors[100][:3], errors[1000][5] = np.nan, np.inf
    found = rate(errors)
    assert found.failed == 4 and found.replicates == (17, 19, 20, 20)


def test_too_little_for_an_interval_is_refused():
    errors = noisy(-0.5, 1.0, 20, 0)
    with pytest.raises(SpecError, match="2 sizes give no interval of a slope; use at least 3"):
        rate({n: errors[n] for n in SIZES[:2]})
    errors[100][:16] = np.nan
    with pytest.raises(SpecError, match="4 finite errors of 20 replicates at n=100"):
        rate(errors)
    with pytest.raises(SpecError, match="an error is zero in the summary"):
        rate({n: np.zeros(9) for n in SIZES})


def test_findings_agree_disagree_or_say_why_there_is_no_number():
    draw = np.random.default_rng(0)
    errors = {n: {"a": n**-0.5 * draw.uniform(0.9, 1.1, 8), "b": np.full(8, np.nan)} for n in (100, 1000, 10_000)}
    right, wrong, none = rate_findings(
        [
            Expected(quantity="a", value=-0.5, tolerance=0.05),
            Expected(quantity="a", value=-0.25, tolerance=0.05),
            Expected(quantity="b", value=-0.5, tolerance=0.05),
        ],
        errors,
    )
    assert right.verdict == "confirmed" and right.interval[0] < right.measured < right.interval[1]
    assert right.sizes == (100, 1000, 10_000) and right.replicates == (8, 8, 8)
    assert wrong.verdict == "not confirmed" and wrong.measured == right.measured
    assert none.verdict == "not testable" and none.failed == 24 and "0 finite errors of 8 replicates" in none.reason


def test_curves_leave_out_sizes_without_a_finite_error():
    errors = {10: {"a": np.array([1.0, 2.0, 4.0])}, 20: {"a": np.full(3, np.nan)}}
    (curve,) = error_curves(errors, ["a"], summary="median", label="error of {}")
    assert curve.label == "error of a" and curve.x.tolist() == [10] and curve.y.tolist() == [2.0]
    assert curve.low.tolist() == [1.5] and curve.high.tolist() == [3.0]


def test_a_wide_interval_decides_nothing():
    claim = Expected(quantity="a", value=-0.5, tolerance=0.05)
    found = judged(claim, -0.7, (-1.0, -0.4))
    assert found.verdict == "not testable" and "[-1, -0.4] is too wide" in found.reason
    assert judged(claim, -0.7, (-0.8, -0.6)).verdict == "not confirmed"
    assert judged(claim, -0.52, (-1.0, -0.4)).verdict == "confirmed"
