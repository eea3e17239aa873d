"""Intervals of means and shares by hand, and what is too few."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.findings import Expected
from moejax.theory.over_seeds import check_seeds, mean_finding, seed_curve, share_finding


def test_means_have_the_interval_of_student():
    found = mean_finding(Expected(quantity="a", value=2.0, tolerance=0.1), np.array([1.0, 2.0, 3.0]))
    # standard deviation 1, standard error 1 / sqrt 3, quantile 4.3027 at two degrees of freedom: 2.4841
    assert found.measured == 2.0 and found.interval == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert found.verdict == "confirmed" and found.replicates == (3,) and found.failed == 0


def test_failed_runs_are_counted_and_too_many_end_the_test():
    expected = Expected(quantity="a", value=0.0, tolerance=0.5)
    found = mean_finding(expected, np.array([3.9, 4.0, 4.1, np.nan]))
    assert found.failed == 1 and found.verdict == "not confirmed" and found.replicates == (3,)
    lost = mean_finding(expected, np.array([1.0, np.nan, np.inf, 2.0]))
    assert lost.verdict == "not testable" and lost.failed == 2 and "2 of 4" in lost.reason


def test_shares_have_the_exact_interval():
    found = share_finding(Expected(quantity="a", value=1.0, tolerance=0.0), np.ones(5, bool))
    # all of five: the lower end solves p^5 = 0.025
    assert found.measured == 1.0 and found.interval == pytest.approx((0.025**0.2, 1.0))
    half = share_finding(Expected(quantity="a", value=1.0, tolerance=0.0), np.array([True, False]))
    assert half.measured == 0.5 and half.verdict == "not confirmed"


def test_a_band_goes_from_the_least_to_the_largest():
    curve = seed_curve("a", np.array([1.0, 2.0]), np.array([[1.0, 2.0], [3.0, 6.0]]))
    assert curve.y.tolist() == [2, 4] and curve.low.tolist() == [1, 2] and curve.high.tolist() == [3, 6]


def test_two_seeds_are_refused():
    with pytest.raises(SpecError, match="at least 3"):
        check_seeds(2)
