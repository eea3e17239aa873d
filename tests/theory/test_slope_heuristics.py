"""Contrasts that fall on a line beyond the true model: both rules find the line's slope and the model."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.slope_heuristics import data_driven_slope, dimension_jump, penalised

DIMENSION = 6.0 * np.arange(1, 9) - 1
# 100 too much at one expert, then 0.5 less for every parameter, as the likelihood of parameters without meaning falls.
CONTRAST = np.where(DIMENSION < 11, 100.0, 0.0) - 0.5 * DIMENSION


def test_the_dimension_jumps_at_the_slope():
    assert penalised(DIMENSION, CONTRAST, 0.4) == 7 and penalised(DIMENSION, CONTRAST, 0.6) == 1
    found = dimension_jump(DIMENSION, CONTRAST)
    assert found.kappa == pytest.approx(0.5) and found.model == 1


def test_the_slope_is_that_of_the_large_models():
    found = data_driven_slope(DIMENSION, CONTRAST)
    assert found.kappa == pytest.approx(0.5) and found.model == 1


def test_two_equal_choices_take_the_smaller():
    assert penalised(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 0.0]), 1.0) == 0


def test_what_has_no_jump_is_refused():
    with pytest.raises(SpecError, match="no dimension jumps"):
        dimension_jump(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]))
    with pytest.raises(SpecError, match="at least 3, and finite"):
        data_driven_slope(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
