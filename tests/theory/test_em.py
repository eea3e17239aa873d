"""EM against steps by hand: starts, sums at nodes, one step of each kind, the stop, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from moejax.core.errors import SpecError
from moejax.theory.em import EM, gate_nodes, published_starts
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.softmax_gaussian import derivatives, pack
from moejax.theory.studies.exact_softmax import TRUTH


def data(num_examples, replicates, seed=0):
    draw = np.random.default_rng(seed)
    x = np.linspace(0, 1, num_examples)
    return x, np.stack([GaussianMoE().sample(TRUTH, x, draw) for _ in range(replicates)])


def by_hand(rows, x, y):
    """One step of EM for any number of experts, with the gate's maximum by another method."""
    scores = rows[:, 0] + x[:, None] * rows[:, 1]
    off = y[:, None] - x[:, None] * rows[:, 2] - rows[:, 3]
    joint = scores - 0.5 * (np.log(2 * np.pi) + rows[:, 4] + off**2 / np.exp(rows[:, 4]))
    top = joint.max(axis=1, keepdims=True)
    value = np.mean(top[:, 0] + np.log(np.exp(joint - top).sum(axis=1)) - np.log(np.exp(scores).sum(axis=1)))
    owner = np.exp(joint - top) / np.exp(joint - top).sum(axis=1, keepdims=True)
    new = rows.copy()
    features = np.stack([x, np.ones_like(x)], axis=1)
    for k in range(len(rows)):
        gram = features.T @ (owner[:, k, None] * features)
        new[k, 2:4] = np.linalg.solve(gram, features.T @ (owner[:, k] * y))
        new[k, 4] = np.log(np.average((y - features @ new[k, 2:4]) ** 2, weights=owner[:, k]))

    def lost(free):
        gates = np.concatenate([free.reshape(-1, 2), rows[-1:, :2]])
        scores = gates[:, 0] + x[:, None] * gates[:, 1]
        return np.mean(np.log(np.exp(scores).sum(axis=1)) - np.sum(owner * scores, axis=1))

    new[:-1, :2] = minimize(lost, rows[:-1, :2].reshape(-1), tol=1e-12).x.reshape(-1, 2)
    return new, value


@pytest.mark.parametrize("num_experts", [2, 3])
def test_two_steps_by_hand(num_experts):
    x, y = data(500, 1)
    start = published_starts(pack(TRUTH), num_experts, 500, 1, np.random.default_rng(3))
    fit = EM(iterations=2, tolerance=1e-13).fit(start[None], x, y)
    once, _ = by_hand(start.reshape(-1, 5), x, y[0])
    twice, value = by_hand(once, x, y[0])
    np.testing.assert_allclose(np.asarray(fit.params)[0, 0].reshape(-1, 5)[:, 2:], twice[:, 2:], rtol=1e-4)
    np.testing.assert_allclose(np.asarray(fit.params)[0, 0].reshape(-1, 5)[:, :2], twice[:, :2], rtol=1e-3, atol=1e-3)
    assert float(fit.value[0, 0]) == pytest.approx(value, rel=1e-6)
    assert fit.iterations.tolist() == [[2]] and fit.converged.tolist() == [[False]]


def test_it_stops_at_the_maximum_with_two_experts():
    x, y = data(9000, 2)  # more than two blocks and more than there are nodes
    starts = published_starts(pack(TRUTH), 2, 9000, 4, np.random.default_rng(0)).reshape(2, 2, -1)
    fit = EM(tolerance=1e-12).fit(starts, x, y)
    assert fit.params.shape == (2, 2, 10) and np.all(np.asarray(fit.converged))
    np.testing.assert_allclose(np.asarray(fit.params)[:, 0], np.asarray(fit.params)[:, 1], atol=2e-3)
    with jax.enable_x64(True):
        for replicate in range(2):
            theta = jnp.asarray(fit.params[replicate, 0])
            arrays = (jnp.asarray(x), jnp.asarray(y[replicate]), jnp.ones(9000))
            value, gradient, _ = jax.jit(derivatives)(theta, *arrays)
            assert float(fit.value[replicate, 0]) == pytest.approx(float(value) / 9000, abs=1e-9)
            moving = np.delete(np.asarray(gradient) / 9000, [5, 6])
            assert np.abs(moving).max() < 1e-4
    early = EM().fit(starts, x, y)
    assert np.all(np.asarray(early.iterations) < np.asarray(fit.iterations))


def test_nodes_sum_smooth_functions():
    for x in (np.linspace(0, 1, 5000), np.random.default_rng(0).uniform(-1, 2, 3000), np.linspace(0, 1, 50)):
        nodes, weights = gate_nodes(x)
        assert len(nodes) == 32 * 12 and weights.sum() == pytest.approx(len(x), rel=1e-13)
        for function in (lambda x: np.log1p(np.exp(25 * x - 8)), lambda x: 1 / (1 + np.exp(8 - 25 * x)), np.square):
            assert weights @ function(nodes) == pytest.approx(function(x).sum(), rel=1e-9)


def test_starts_are_those_of_the_authors():
    starts = published_starts(pack(TRUTH), 3, 1000, 3000, np.random.default_rng(0)).reshape(-1, 3, 5)
    np.testing.assert_array_equal(starts[:, -1, :2], 0.0)  # the last gate is the truth's
    bias_off, kernel_off = starts[:, 0, 0] + 8, starts[:, 0, 1] - 25
    first = kernel_off > -1
    np.testing.assert_allclose(bias_off[first], kernel_off[first], atol=1e-12)  # one number for both
    assert bias_off[first].std() == pytest.approx(0.005 * 1000**-0.083, rel=0.06)
    # (1, 1, 2), (1, 2, 2) and (2, 1, 2), each as likely: the last true expert is met twice in two of three.
    assert np.mean(starts[:, :2, 3].min(axis=1) < 0) == pytest.approx(2 / 3, abs=0.03)
    spread = np.exp(starts[:, -1, 4])
    assert np.all(spread > 0.4) and (spread - 0.4).max() < 0.01  # the standard deviation for a variance


def test_what_is_refused():
    with pytest.raises(SpecError, match="num_experts=1 cannot meet all 2 true experts"):
        published_starts(pack(TRUTH), 1, 100, 2, np.random.default_rng(0))
    with pytest.raises(SpecError, match="EM needs tolerance=0"):
        EM(tolerance=0.0)
    with pytest.raises(SpecError, match="starts of 1 replicates for responses of 2"):
        EM().fit(np.zeros((1, 1, 10)), np.zeros(4), np.zeros((2, 4)))
