"""Kernel distance against a double loop, its expectation of zero, its standard error, and its scale."""

import itertools

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.kernel_distance import kernel_distance, unbiased_mmd, unit_scale


def by_hand(x, y):
    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    same_x = np.mean([kernel(a, b) for a, b in itertools.permutations(x, 2)])
    same_y = np.mean([kernel(a, b) for a, b in itertools.permutations(y, 2)])
    return same_x + same_y - 2 * np.mean([kernel(a, b) for a in x for b in y])


def test_the_estimate_equals_a_double_loop():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.5
    np.testing.assert_allclose(unbiased_mmd(x, y), by_hand(x, y), rtol=1e-12)
    # One block of everything: shuffling rows changes nothing, and there is no error to give.
    whole = kernel_distance(x, y[[0, 1, 2, 3, 4, 0, 1]], min_blocks=1)
    np.testing.assert_allclose(whole.value, by_hand(x, y[[0, 1, 2, 3, 4, 0, 1]]), rtol=1e-12)
    assert whole.standard_error is None and (whole.num_blocks, whole.block_size) == (1, 7)


def test_it_is_unbiased_and_its_error_is_of_the_right_size():
    rng = np.random.default_rng(1)
    draws = [kernel_distance(*rng.normal(size=(2, 100, 4)), seed=i) for i in range(80)]
    values = np.array([d.value for d in draws])
    assert abs(values.mean()) < 3.5 * values.std() / np.sqrt(len(values))
    told = np.sqrt(np.mean([d.standard_error**2 for d in draws]))
    assert 0.7 < told / values.std() < 1.4
    assert {(d.num_blocks, d.block_size) for d in draws} == {(10, 10)}


def test_other_distributions_are_far_and_scale_is_applied():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 400, 4))
    near, far = kernel_distance(x, y), kernel_distance(x + 1, y)
    assert far.value > 20 * abs(near.value)
    scaled = kernel_distance(10 * (x + 1), 10 * y, scale=0.1)
    np.testing.assert_allclose(scaled.value, far.value, rtol=1e-9)
    np.testing.assert_allclose(unit_scale(10 * y) * 10, unit_scale(y), rtol=1e-12)


def test_blocks_are_limited_and_bad_input_is_named():
    x = np.random.default_rng(3).normal(size=(50, 2))
    found = kernel_distance(x, x[:41], max_block_size=3)
    assert (found.num_blocks, found.block_size) == (13, 3)
    with pytest.raises(SpecError, match="2 rows"):
        kernel_distance(x[:1], x)
    with pytest.raises(SpecError, match="2 and 1 dimensions"):
        kernel_distance(x, x[:, :1])
    x[4] = np.inf
    with pytest.raises(SpecError, match="1 of 50"):
        kernel_distance(x, x)
