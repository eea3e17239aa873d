"""Statistics from rows, against NumPy."""

import numpy as np
import pytest

from moejax.compress.statistics import from_rows
from moejax.core.errors import SpecError


def test_sums():
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    x[5] = 0
    own = from_rows(x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(own.second_moment, sum(np.outer(row, row) for row in exact))
    np.testing.assert_allclose(own.absolute, np.abs(exact).sum(0))
    assert own.count == 8  # the row of zeros is padding
    np.testing.assert_array_equal(own.rows, exact)


def test_banks_and_merging():
    x = np.random.default_rng(0).normal(size=(3, 8, 4))
    whole, parts = from_rows(x), from_rows(x[:, :5]).merge(from_rows(x[:, 5:]))
    for name in ("count", "second_moment", "absolute"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name))
        np.testing.assert_allclose(getattr(whole.expert(1), name), getattr(from_rows(x[1]), name))


def test_few_rows_are_kept():
    x = np.arange(20.0).reshape(10, 2) + 1
    np.testing.assert_array_equal(from_rows(x, num_rows=3).rows, x[[0, 4, 9]])
    assert from_rows(x, num_rows=0).rows is None


def test_mistakes():
    with pytest.raises(SpecError, match=r"\(2, 3, 4, 5\) must be \[N D\]"):
        from_rows(np.ones((2, 3, 4, 5)))
    with pytest.raises(SpecError, match="NaN or infinite"):
        from_rows(np.array([[1.0, np.nan]]))
