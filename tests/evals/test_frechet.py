"""Fréchet distance: against scipy's matrix root, on Gaussians whose distance is known, and on bad input."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg

from moejax.core.errors import SpecError
from moejax.evals.frechet import Moments, ScoreWarning, frechet_distance, moments


def independent(x, y):
    """The published way: scipy's Schur root of the product, moments by NumPy."""
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(first + second - 2 * root)


@pytest.mark.parametrize("dim", [2, 7, 24])
def test_it_equals_scipys_matrix_root(dim):
    rng = np.random.default_rng(dim)
    x = rng.normal(size=(300, dim)) @ rng.normal(size=(dim, dim))
    y = rng.normal(size=(200, dim)) @ rng.normal(size=(dim, dim)) + 0.3
    found = frechet_distance(moments(x), moments(y))
    np.testing.assert_allclose(found, independent(x, y), rtol=1e-8)
    np.testing.assert_allclose(frechet_distance(moments(y), moments(x)), found, rtol=1e-8)


def test_gaussians_with_a_known_distance():
    # Covariances that commute: |m|^2 + sum (sqrt a - sqrt b)^2 = 9 + 16 + (1 - 2)^2 + (3 - 5)^2 = 30.
    first = Moments(np.array([0.0, 0.0]), np.diag([1.0, 9.0]), 100)
    second = Moments(np.array([3.0, 4.0]), np.diag([4.0, 25.0]), 100)
    assert math.isclose(frechet_distance(first, second), 30.0, rel_tol=1e-12)
    # Turned by 45 degrees, nothing changes.
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    turned = [Moments(turn @ m.mean, turn @ m.covariance @ turn.T, 100) for m in (first, second)]
    assert math.isclose(frechet_distance(*turned), 30.0, rel_tol=1e-12)
    # Covariances that do not commute: I and [[2, 1], [1, 2]], eigenvalues 3 and 1: 2 + 4 - 2 (sqrt 3 + 1).
    third = Moments(np.zeros(2), np.array([[2.0, 1.0], [1.0, 2.0]]), 100)
    identity = Moments(np.zeros(2), np.eye(2), 100)
    assert math.isclose(frechet_distance(identity, third), 4 - 2 * math.sqrt(3), rel_tol=1e-12)


def test_samples_of_one_distribution_come_near_zero_and_equal_ones_are_at_zero():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 4)).astype(np.float32)
    assert frechet_distance(moments(x), moments(x)) < 1e-9
    assert frechet_distance(moments(x[:2000]), moments(x[2000:])) < 0.02
    shifted = x[2000:] + np.float32(1.0)
    assert math.isclose(frechet_distance(moments(x[:2000]), moments(shifted)), 4.0, rel_tol=0.15)


def test_a_covariance_without_full_rank_gives_a_real_number_and_a_warning():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 6, 10))
    with pytest.warns(ScoreWarning, match="6 samples in 10 feature dimensions"):
        found = frechet_distance(moments(x), moments(y))
    assert found > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(*(moments(rng.normal(size=(11, 10))) for _ in range(2)))


def test_broken_features_are_named():
    features = np.ones((5, 3))
    features[3, 1] = np.nan
    with pytest.raises(SpecError, match=r"1 of 5 feature vectors .* row 3"):
        moments(features)
    with pytest.raises(SpecError, match="at least 2"):
        moments(np.ones((1, 3)))
    with pytest.raises(SpecError, match="3 and of 2 dimensions"):
        frechet_distance(moments(np.ones((5, 3))), moments(np.ones((5, 2))))
