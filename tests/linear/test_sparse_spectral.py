"""The sparse spectral leaf: zeros are the base kernel, the full pattern reaches every change, patterns by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.linear.freezing import trainable
from moejax.linear.sparse_spectral import SparseSpectral, banded, scattered, strongest
from tests.linear.leaf_examples import close, normal


def of_kernel(kernel, pattern):
    u, _, v = np.linalg.svd(np.asarray(kernel, np.float64), full_matrices=True)
    u, v = (jnp.asarray(a, jnp.float32) for a in (u, v))
    return SparseSpectral(u, jnp.zeros(len(pattern)), v, kernel, pattern)


def test_patterns_by_hand():
    # Positions in a matrix of 3 columns: 0 1 2 / 3 4 5.
    assert banded(2, 3, 0) == (0, 4)
    assert banded(2, 3, 1) == (0, 1, 3, 4, 5)
    assert strongest(np.array([[1.0, -5.0, 0.0], [2.0, 2.0, 4.0]]), 3) == (1, 3, 5)
    assert scattered(2, 3, 4, 7) == scattered(2, 3, 4, 7)
    assert scattered(2, 3, 4, 7) != scattered(2, 3, 4, 8)
    assert len(set(scattered(20, 30, 600, 0))) == 600


def test_zeros_are_the_kernel():
    kernel = normal(0, 4, 6)
    leaf = of_kernel(kernel, scattered(4, 6, 5, 0))
    close(leaf.matmul(normal(1, 3, 4)), normal(1, 3, 4) @ kernel)


def test_the_full_pattern_spans_every_change():
    kernel, target = normal(0, 4, 6), normal(1, 4, 6)
    leaf = of_kernel(kernel, banded(4, 6, 6))
    change = jnp.linalg.inv(leaf.u) @ (target - kernel) @ jnp.linalg.inv(leaf.v)
    close(leaf.replace(coefficients=change.reshape(-1)).materialise(), target)


def test_coefficients_go_to_their_positions():
    leaf = of_kernel(jnp.zeros((2, 3)), (1, 5)).replace(u=jnp.eye(2), v=jnp.eye(3), coefficients=jnp.array([7.0, 9.0]))
    np.testing.assert_array_equal(leaf.materialise(), [[0, 7, 0], [0, 0, 9]])


def test_only_the_coefficients_train():
    leaf = of_kernel(normal(0, 4, 4), banded(4, 4, 0))
    gradient = jax.grad(lambda leaf: jnp.sum(jnp.sin(leaf.matmul(normal(1, 3, 4)))))(leaf)
    assert np.all(gradient.coefficients)
    assert not any(np.any(a) for a in (gradient.u, gradient.v, gradient.residual))
    flags = trainable({"x": leaf})["x"]
    assert [flags.u, flags.coefficients, flags.v, flags.residual] == [False, True, False, False]


def test_clearing_joins_the_patterns():
    pattern = ((0, 4), (1, 4))
    leaf = SparseSpectral(normal(0, 2, 3, 2), normal(1, 2, 2), normal(2, 2, 3, 4), normal(3, 2, 3, 4), pattern)
    whole = leaf.cleared()
    assert whole.pattern == (0, 1, 4)
    np.testing.assert_array_equal(whole.coefficients[:, 2], leaf.coefficients[:, 1])
    assert not whole.coefficients[0, 1]
    assert not whole.coefficients[1, 0]
    close(whole.materialise(), leaf.materialise())


def test_a_pattern_that_does_not_fit():
    leaf = of_kernel(normal(0, 4, 6), (0, 1))
    with pytest.raises(SpecError, match="M of 24 entries"):
        leaf.replace(pattern=(0, 24)).materialise()
    with pytest.raises(SpecError, match="one position below that per coefficient"):
        leaf.replace(pattern=(0, 1, 2)).materialise()
