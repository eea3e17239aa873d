"""The weighted decomposition: both solvers, all kinds of weights, sizes on either side."""

import numpy as np
import pytest

from moejax.compress.weighted import balance, distance, factorise, root

SHAPES = [(5, 8), (8, 5), (6, 6)]


def positive(seed, size, *, rank=None):
    x = np.random.default_rng(seed).normal(size=(rank or 2 * size, size))
    return x.T @ x


def weights(kind, depth, width):
    left = {
        "none": None,
        "diagonal": np.linspace(0.5, 3, depth),
        "full": positive(1, depth),
        "singular": positive(1, depth, rank=3),
    }
    right = {
        "none": None,
        "diagonal": np.linspace(2, 1, width),
        "full": positive(2, width),
        "singular": positive(2, width, rank=4),
    }
    first, second = kind.split("-")
    return left[first], right[second]


KINDS = ["none-none", "diagonal-none", "full-none", "singular-none", "none-full", "none-singular", "full-diagonal", "full-full", "singular-singular"]  # fmt: skip


def square(weight, size):
    if weight is None:
        return np.eye(size)
    return np.diag(weight) if weight.ndim == 1 else weight


@pytest.mark.parametrize("solver", [1024, 1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_tail_and_identity(kind, shape, solver):
    kernel = np.random.default_rng(0).normal(size=shape)
    left, right = weights(kind, *shape)
    made = factorise(kernel, left=left, right=right, exact_up_to=solver)
    np.testing.assert_allclose(made.u @ made.v, kernel, atol=1e-6)
    whole = np.sqrt(np.sum(made.spectrum**2))
    for rank in range(len(made.spectrum) + 1):
        delta = kernel - made.u[:, :rank] @ made.v[:rank]
        own = np.trace(square(left, shape[0]) @ delta @ square(right, shape[1]) @ delta.T)
        tail = np.sum(made.spectrum[rank:] ** 2) + made.rest
        np.testing.assert_allclose(tail, own, rtol=1e-6, atol=1e-9 * whole**2)
        for roots in (1024, 1):
            found = distance(kernel, kernel - delta, left=left, right=right, exact_up_to=roots)
            np.testing.assert_allclose(found**2, own, rtol=1e-6, atol=1e-9 * whole**2)


@pytest.mark.parametrize("solver", [1024, 1])
def test_by_hand(solver):
    # L = diag(4, 1): L^1/2 W = diag(2, 3), so that the second component comes first and the first costs 2.
    made = factorise(np.diag([1.0, 3.0]), left=np.array([4.0, 1.0]), exact_up_to=solver)
    np.testing.assert_allclose(made.spectrum, [3, 2])
    np.testing.assert_allclose(made.u[:, :1] @ made.v[:1], np.diag([0.0, 3.0]), atol=1e-12)


def test_what_the_weight_does_not_see_comes_last_and_best_in_the_plain_norm():
    kernel = np.random.default_rng(0).normal(size=(6, 6))
    seen = np.random.default_rng(1).normal(size=(6, 2))
    made = factorise(kernel, left=seen @ seen.T)
    assert np.all(made.spectrum[:2] > 0) and not np.any(made.spectrum[2:])
    rest = kernel - made.u[:, :2] @ made.v[:2]
    p, s, q = np.linalg.svd(rest)
    np.testing.assert_allclose(made.u[:, 2:4] @ made.v[2:4], p[:, :2] * s[:2] @ q[:2], atol=1e-10)
    assert np.linalg.norm(seen.T @ rest) < 1e-12


@pytest.mark.parametrize("solver", [1024, 1])
def test_of_low_rank_and_zero_kernels(solver):
    draw = np.random.default_rng(0)
    low = draw.normal(size=(7, 2)) @ draw.normal(size=(2, 5))
    made = factorise(low, left=positive(3, 7), exact_up_to=solver)
    np.testing.assert_allclose(made.u[:, :2] @ made.v[:2], low, atol=1e-9)
    zero = factorise(np.zeros((4, 3)), exact_up_to=solver)
    assert not np.any(zero.u @ zero.v)
    blind = factorise(low, left=np.zeros((7, 7)), exact_up_to=solver)
    np.testing.assert_allclose(blind.u[:, :2] @ blind.v[:2], low, atol=1e-9)
    assert not np.any(blind.spectrum)


def test_largest_rank():
    kernel = np.random.default_rng(0).normal(size=(6, 4))
    for solver in (1024, 1):
        made = factorise(kernel, largest_rank=2, exact_up_to=solver)
        assert made.u.shape == (6, 2)
        np.testing.assert_allclose(made.rest, np.sum(np.linalg.svd(kernel)[1][2:] ** 2))


def test_roots():
    weight = positive(0, 5, rank=2)
    half = root(weight)
    assert half.shape == (2, 5)
    np.testing.assert_allclose(half.T @ half, weight, atol=1e-12)
    np.testing.assert_allclose(root(np.array([4.0, -1e-9])), [2, 0])
    assert root(np.zeros((3, 3))).shape == (0, 3)


def test_balance():
    draw = np.random.default_rng(0)
    u, v = draw.normal(size=(5, 3)) * [1e-4, 1, 1e3], draw.normal(size=(3, 4))
    other, else_v = balance(u, v)
    np.testing.assert_allclose(other @ else_v, u @ v)
    np.testing.assert_allclose(np.linalg.norm(other, axis=0), np.linalg.norm(else_v, axis=1))
