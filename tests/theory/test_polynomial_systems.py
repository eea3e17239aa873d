"""Orders at which atoms cancel: by exact arithmetic for two, by known solutions for three."""

from fractions import Fraction

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.polynomial_systems import best_solution, fourth_order, r_bar, residuals, two_atoms


def test_sums_are_the_coefficients_of_a_generating_function():
    weights, shifts, scales = [0.3, 0.7], [0.5, -1.2], [0.2, -0.4]
    t = np.exp(2j * np.pi * np.arange(32) / 32) * 0.5  # Cauchy's integral on a circle
    values = sum(w * np.exp(q * t + p * t**2) for w, q, p in zip(weights, shifts, scales, strict=True))
    coefficients = [float(np.mean(values * t**-s).real) for s in range(1, 7)]
    np.testing.assert_allclose(residuals(weights, shifts, scales, 6), coefficients, rtol=1e-10)


@pytest.mark.parametrize("ratio", [Fraction(1, 10), Fraction(1), Fraction(3), Fraction(7, 2)])
def test_two_atoms_cancel_to_the_third_order_and_never_to_the_fourth(ratio):
    weights, shifts, scales = two_atoms(ratio)
    assert scales == [-(1 + 2 * ratio) / 6, -ratio * (2 + ratio) / 6]
    first, second, third, fourth = residuals(weights, shifts, scales, 4)
    assert first == second == third == 0
    assert fourth == fourth_order(ratio) == -ratio * (1 + 2 * ratio + 2 * ratio**2 + ratio**3) / 36 < 0


def test_the_fourth_order_at_known_ratios():
    assert float(fourth_order(Fraction(1, 10))) == pytest.approx(-0.0033917, abs=1e-7)
    assert fourth_order(Fraction(1)) == Fraction(-1, 6) and fourth_order(Fraction(3)) == Fraction(-13, 3)


def test_three_atoms_cancel_to_the_fifth_order():
    rho, s = 19 / 12, -0.3
    weights, shifts, scales = [1, rho, rho], [0, 1, -1], [-rho * (1 + 2 * s), s, s]
    found = residuals(weights, shifts, scales, 6)
    np.testing.assert_allclose(found[:5], 0, atol=1e-12)
    assert found[5] == pytest.approx(-0.0205247, abs=1e-7)


def test_r_bar_is_derived():
    assert [r_bar(m) for m in (1, 2, 3)] == [1, 4, 6]
    assert best_solution(3, 5).residual < 1e-9 and best_solution(3, 6).residual > 1e-4
    with pytest.raises(SpecError, match="r-bar of 4 atoms in one cell: it is known for 1 to 3 alone"):
        r_bar(4)
