"""The compiled assignment against scipy's and against all permutations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from moejax.diffusion.linear_assignment import linear_assignment

solve = jax.jit(linear_assignment)


def total(cost, columns):
    return float(np.asarray(cost, np.float64)[np.arange(len(cost)), columns].sum())


def optimum(cost):
    return total(cost, scipy.optimize.linear_sum_assignment(np.asarray(cost, np.float64))[1])


def check(cost):
    columns = np.asarray(solve(jnp.asarray(cost, jnp.float32)))
    assert sorted(columns) == list(range(len(cost)))
    scale = np.abs(np.asarray(cost, np.float64)).max() * len(cost) or 1.0
    assert total(cost, columns) == pytest.approx(optimum(cost), abs=1e-6 * scale)
    return columns


def test_by_hand():
    # Column minima: 1 (row 1), 0 (row 1), 2 (row 0). The best total is 1 + 4 + ... : rows to columns 2, 1, 0 cost 2 + 0 + 3.
    cost = [[4.0, 1.0, 2.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]]
    best = min(itertools.permutations(range(3)), key=lambda p: total(cost, list(p)))
    assert total(cost, list(best)) == 5.0
    assert total(cost, check(np.array(cost))) == 5.0


def test_all_permutations_of_six():
    rng = np.random.default_rng(0)
    orders = np.array(list(itertools.permutations(range(6))))
    for _ in range(40):
        cost = rng.normal(size=(6, 6)).astype(np.float32)
        totals = cost.astype(np.float64)[np.arange(6)[None], orders].sum(1)
        np.testing.assert_array_equal(check(cost), orders[totals.argmin()])


@pytest.mark.parametrize("size", [1, 2, 16, 64, 128])
def test_random_costs(size):
    rng = np.random.default_rng(size)
    for _ in range(5):
        check(rng.uniform(size=(size, size)))
        check(rng.normal(size=(size, size)) * 100)
        check(rng.integers(0, 5, size=(size, size)))  # many ties


def test_costs_that_need_long_paths():
    size = 64
    i = np.arange(size)
    check(np.outer(i + 1.0, i + 1.0))  # the worst case of greedy methods
    check(-np.outer(i + 1.0, i + 1.0))
    check(np.abs(i[:, None] - i[::-1][None]).astype(float))


def test_equal_costs_and_constant_shifts():
    check(np.zeros((9, 9)))
    check(np.full((9, 9), 7.5))
    cost = np.random.default_rng(1).normal(size=(12, 12))
    shifted = cost + np.arange(12.0)[:, None] - 3 * np.arange(12.0)[None]
    np.testing.assert_array_equal(check(cost), check(shifted))


def test_what_is_not_finite_does_not_stop_it():
    cost = np.random.default_rng(2).normal(size=(8, 8))
    cost[2], cost[:, 3], cost[5, 5] = np.nan, np.inf, -np.inf
    assert sorted(np.asarray(solve(jnp.asarray(cost, jnp.float32)))) == list(range(8))


def test_it_stands_in_a_loss_that_is_differentiated():
    cost = jnp.asarray(np.random.default_rng(3).normal(size=(5, 5)), jnp.float32)

    @jax.jit
    def loss(cost):
        return jnp.sum(jnp.take_along_axis(cost, linear_assignment(cost)[:, None], axis=1))

    gradient = np.asarray(jax.grad(loss)(cost))
    np.testing.assert_array_equal(gradient.argmax(axis=1), check(cost))
    assert gradient.sum() == 5.0


def test_many_at_once():
    costs = jnp.asarray(np.random.default_rng(4).normal(size=(6, 10, 10)), jnp.float32)
    found = jax.jit(jax.vmap(linear_assignment))(costs)
    for cost, columns in zip(costs, found, strict=True):
        np.testing.assert_array_equal(columns, scipy.optimize.linear_sum_assignment(np.asarray(cost))[1])
