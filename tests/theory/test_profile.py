"""The exact profile against every split by least squares, and what is refused."""

import numpy as np
import pytest
from scipy.stats import norm

from moejax.core.errors import SpecError
from moejax.theory.profile import fit_two_sides


def test_it_is_the_best_of_all_splits():
    draw = np.random.default_rng(0)
    x = draw.uniform(-1, 1, 60)
    y = np.where(x < 0.2, 2 * x + 1, -x) + 0.3 * draw.standard_normal(60)
    found = fit_two_sides(x, y, fewest=4)
    order = np.argsort(x)
    x, y = x[order], y[order]
    best = (-np.inf, None, None)
    for split in range(4, 57):
        value, sides = 0.0, []
        for part in (slice(None, split), slice(split, None)):
            line = np.polyfit(x[part], y[part], 1)
            spread = np.std(y[part] - np.polyval(line, x[part]))
            value += norm.logpdf(y[part], np.polyval(line, x[part]), spread).sum()
            sides.append([*line, spread**2])
        best = max(best, (value / 60, (x[split - 1] + x[split]) / 2, sides), key=lambda one: one[0])
    assert found.value == pytest.approx(best[0], rel=1e-12) and found.boundary == pytest.approx(best[1], rel=1e-12)
    for side, wanted in zip((found.left, found.right), best[2], strict=True):
        np.testing.assert_allclose([side.weight, side.bias, side.variance], wanted, rtol=1e-9)


def test_four_examples_of_each_line_by_hand():
    x = np.arange(8.0)
    y = np.concatenate([1 + np.array([0.1, -0.1, -0.1, 0.1]), 9 + np.array([0.1, -0.1, -0.1, 0.1])])
    found = fit_two_sides(x, y, fewest=4)
    assert found.boundary == 3.5  # between 3 and 4
    assert found.left.weight == pytest.approx(0.0, abs=1e-12) and found.right.bias == pytest.approx(9.0)
    assert found.left.variance == pytest.approx(0.01) and found.right.variance == pytest.approx(0.01)
    assert found.value == pytest.approx(-0.5 * (np.log(2 * np.pi * 0.01) + 1))


def test_equal_inputs_are_never_parted():
    x = np.repeat([0.0, 1.0, 2.0, 3.0], 5)
    y = np.random.default_rng(0).standard_normal(20)
    assert fit_two_sides(x, y, fewest=6).boundary == 1.5


def test_what_is_refused():
    with pytest.raises(SpecError, match="8 examples leave no two sides of fewest=5"):
        fit_two_sides(np.arange(8.0), np.arange(8.0))
    with pytest.raises(SpecError, match="use inputs that vary"):
        fit_two_sides(np.ones(20), np.arange(20.0))
    with pytest.raises(SpecError, match="not finite"):
        fit_two_sides(np.arange(20.0), np.full(20, np.nan))
