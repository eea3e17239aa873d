"""Reductions of equal estimates, costs that never rise, EM that climbs; averages of experts in unlike order are far off."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.theory.aggregation import (
    SoftmaxExperts,
    affine,
    averaged,
    clusters,
    em_step,
    fitted_gate,
    grouped,
    permuted,
    predicted,
    reduced,
    sample,
)

TRUTH = SoftmaxExperts(
    gate=np.array([[0.5, -0.2, 0.0], [1.0, -1.0, 0.0], [0.3, 0.8, 0.0]]),
    expert=np.array([[2.0, -2.0, 0.0], [1.0, 1.0, -1.0], [0.0, 2.0, 1.0]]),
    variance=np.array([0.25, 0.16, 0.36]),
)
INPUTS = affine(np.random.default_rng(0).standard_normal((400, 2)))


def stacked(*mixtures):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *mixtures)


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def close(found, expected, atol):
    for order in itertools.permutations(range(3)):
        other = permuted(found, list(order))
        if all(
            np.allclose(getattr(other, name), getattr(expected, name), atol=atol)
            for name in ("gate", "expert", "variance")
        ):
            return True
    return False


def test_equal_local_estimates_reduce_to_themselves():
    """In any order of each shard's experts: cost zero, and the same mixture."""
    local = stacked(TRUTH, permuted(TRUTH, [2, 0, 1]), permuted(TRUTH, [1, 0, 2]))
    start = grouped(local, np.random.default_rng(0))
    with jax.enable_x64(True):
        found, costs = reduced(*on_device((local, start, INPUTS)), steps=3)
        found, costs = jax.tree.map(np.asarray, (found, costs))
    assert np.all(np.abs(costs) < 1e-12) and close(found, TRUTH, 1e-6)
    assert not close(averaged(local), TRUTH, 0.5)


def test_the_cost_never_rises():
    draw = np.random.default_rng(1)
    noisy = [
        SoftmaxExperts(
            TRUTH.gate + 0.2 * draw.standard_normal((3, 3)) * [1, 1, 0],
            TRUTH.expert + 0.5 * draw.standard_normal((3, 3)),
            TRUTH.variance * np.exp(0.3 * draw.standard_normal(3)),
        )
        for _ in range(5)
    ]
    start = SoftmaxExperts(np.zeros((3, 3)), TRUTH.expert + 1.5 * draw.standard_normal((3, 3)), np.ones(3))
    with jax.enable_x64(True):
        costs = np.asarray(reduced(*on_device((stacked(*noisy), start, INPUTS)), steps=12)[1])
    assert np.all(np.diff(costs) <= 1e-12) and costs[0] > 1.2 * costs[-1] and float(costs[-1]) > 0


def test_gates_are_those_that_made_the_shares():
    shares = np.exp(INPUTS @ TRUTH.gate)
    shares /= shares.sum(axis=1, keepdims=True)
    with jax.enable_x64(True):
        found = fitted_gate(jnp.zeros((3, 3)), jnp.asarray(INPUTS), jnp.asarray(shares), 20)
    np.testing.assert_allclose(found, TRUTH.gate, atol=1e-6)


def test_steps_raise_the_likelihood():
    inputs = affine(np.random.default_rng(2).standard_normal((2000, 2)))
    y = sample(TRUTH, inputs, np.random.default_rng(3))[0]
    assert y.mean() == pytest.approx(
        (inputs @ TRUTH.expert * (softmax(inputs @ TRUTH.gate))).sum(axis=1).mean(), abs=0.06
    )
    with jax.enable_x64(True):
        params, values = on_device(TRUTH.replace(expert=TRUTH.expert + 0.3)), []
        one = jax.jit(em_step)
        for _ in range(25):
            params, value = one(params, jnp.asarray(inputs), jnp.asarray(y))
            values.append(float(value))
    assert np.all(np.diff(values) > 0)
    np.testing.assert_allclose(params.expert, TRUTH.expert, atol=0.15)


def softmax(scores):
    return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)


def test_means_and_groups_by_hand():
    # At input zero the gates are proportional to e^0.5, e^-0.2 and 1, the means 2, -2 and 0.
    gates = np.exp([0.5, -0.2, 0.0])
    inputs = affine(np.zeros((3, 2)))
    expected = (2 * gates[0] - 2 * gates[1]) / gates.sum()
    np.testing.assert_allclose(predicted(TRUTH, inputs), [expected] * 3)
    # Next to a mean its own expert is the likeliest.
    np.testing.assert_array_equal(clusters(TRUTH, inputs, np.array([1.9, -2.1, 0.1])), [0, 1, 2])
    # Halfway between 2 and 0: e^0.5 e^(-1 / 0.5) / 0.5 = 0.4463 against e^(-1 / 0.72) / 0.6 = 0.4156.
    assert clusters(TRUTH, inputs[:1], np.array([1.0])) == [0]
