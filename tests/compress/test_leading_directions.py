"""Leading singular vectors of matrices side by side, exactly and by random products."""

import numpy as np
import pytest

from moejax.compress.leading_directions import leading_directions, orthonormal


@pytest.mark.parametrize("exact_up_to", [2048, 0])
def test_they_span_what_the_decomposition_spans(exact_up_to):
    draw = np.random.default_rng(0)
    left = np.linalg.qr(draw.normal(size=(60, 60)))[0] * 0.7 ** np.arange(60)
    matrices = [left @ draw.normal(size=(60, 40)) for _ in range(3)]
    found = leading_directions(lambda: iter(matrices), 5, exact_up_to=exact_up_to)
    together = np.concatenate(matrices, axis=1)
    u, values, _ = np.linalg.svd(together, full_matrices=False)
    np.testing.assert_allclose(found.T @ found, np.eye(5), atol=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(found * u[:, :5], axis=0)), np.ones(5), atol=1e-4)
    error = np.sum((together - found @ found.T @ together) ** 2)
    np.testing.assert_allclose(error, np.sum(values[5:] ** 2), rtol=1e-4)


@pytest.mark.parametrize("exact_up_to", [2048, 0])
def test_zero_matrices_and_more_directions_than_there_are(exact_up_to):
    found = leading_directions(lambda: iter([np.zeros((6, 3))]), 4, exact_up_to=exact_up_to)
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=1e-9)
    one = np.outer(np.arange(1.0, 7.0), np.ones(3))
    found = leading_directions(lambda: iter([one]), 3, exact_up_to=exact_up_to)
    np.testing.assert_allclose(found @ found.T @ one, one, atol=1e-9)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("scales", [np.ones(5), 10.0 ** -np.arange(5), 10.0 ** (-3.0 * np.arange(5)), [1, 1, 0, 1, 1]])
def test_columns_become_orthonormal_as_householder_makes_them(scales):
    """Up to signs where they are independent; dependent ones get some orthonormal columns, too."""
    columns = np.random.default_rng(1).normal(size=(40, 5)) * np.asarray(scales, np.float64)
    found = orthonormal(columns)
    np.testing.assert_allclose(found.T @ found, np.eye(5), atol=1e-13)
    np.testing.assert_allclose(found @ (found.T @ columns), columns, atol=1e-13)
    if np.all(np.asarray(scales) > 0):
        np.testing.assert_allclose(np.abs(np.sum(found * np.linalg.qr(columns)[0], axis=0)), np.ones(5), atol=1e-13)
