"""Scaling by activations, by hand."""

import numpy as np
import pytest

from moejax.compress.activation_svd import ActivationSvd
from moejax.compress.statistics import from_rows
from moejax.core.errors import SpecError

ROWS = from_rows(np.array([[1.0, -4.0], [-1.0, 4.0], [0.0, 0.0]]))  # the last row is padding: means 1 and 4


def test_by_hand():
    kernel = np.diag([3.0, 2.0])
    made = ActivationSvd(alpha=0.5).factorise(kernel, ROWS)  # scales 1 and 2: diag(3, 4)
    np.testing.assert_allclose(made.spectrum, [4, 3])
    np.testing.assert_allclose(made.u[:, :1] @ made.v[:1], np.diag([0.0, 2.0]), atol=1e-12)
    np.testing.assert_allclose(ActivationSvd(alpha=1.0).factorise(kernel, ROWS).spectrum, [8, 3])


def test_alpha_zero_is_plain():
    np.testing.assert_allclose(ActivationSvd(alpha=0.0).factorise(np.diag([3.0, 2.0]), ROWS).spectrum, [3, 2])


def test_bad_fields():
    with pytest.raises(SpecError, match="alpha=-1"):
        ActivationSvd(alpha=-1.0)
