"""The sin-cos table by hand."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.layers.positions import sincos_2d


def test_sincos_by_hand() -> None:
    # D = 8: two frequencies, 1 and 1/100. Patch 5 of 2 x 3 is row 1, column 2: sin, cos of (2, 0.02), then of (1, 0.01).
    table = sincos_2d(2, 3, 8, temperature=100.0)
    assert table.shape == (6, 8)
    expected = [0.909297, 0.0199987, -0.416147, 0.9998, 0.841471, 0.0099998, 0.540302, 0.99995]
    np.testing.assert_allclose(table[5], expected, rtol=1e-5)
    np.testing.assert_allclose(table[0], [0, 0, 1, 1, 0, 0, 1, 1])


def test_width_must_be_a_multiple_of_four() -> None:
    with pytest.raises(SpecError, match="dim=6 must be a multiple of 4"):
        sincos_2d(2, 2, 6)


def test_frequencies_short_of_the_end_are_those_of_dit() -> None:
    # D = 8: frequencies 1 and 10000^(-1/2) = 1/100, where the table to the end has 1 and 1/10000.
    table = sincos_2d(2, 3, 8, reach_end=False)
    np.testing.assert_allclose(table, sincos_2d(2, 3, 8, temperature=100.0), rtol=1e-6)
    omega = 1.0 / 10_000 ** (np.arange(4) / 4)  # the released code, for each of the two axes
    expected = np.concatenate([np.sin(2 * omega), np.cos(2 * omega), np.sin(1 * omega), np.cos(1 * omega)])
    np.testing.assert_allclose(sincos_2d(2, 3, 16, reach_end=False)[5], expected, rtol=1e-5)
