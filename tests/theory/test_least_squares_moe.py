"""Regression functions by hand and beside the router's weights, fits of noiseless means, and the directions that nothing sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.gates.linear import Linear
from moejax.routing.top_k import TopKRouter
from moejax.theory.least_squares_moe import LeastSquaresMoE, mean_responses, measure, split_starts

# gate bias, gate kernel, weight, bias of two experts
THETA = np.array([0.0, 1.0, 2.0, -1.0, 0.5, 0.0, -1.0, 3.0])
X = np.linspace(-3, 3, 40)


def values(model, theta, x=X):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(model.regression)(jnp.asarray(theta), jnp.asarray(x)))


def test_functions_by_hand():
    x = np.array([1.0, -1.0])
    # scores (1, 0.5) and (-1, 0.5); linear experts (1, 2) and (-3, 4)
    sigmoid = [1 / (1 + np.exp(-s)) for s in (1.0, 0.5, -1.0)]
    expected = [sigmoid[0] * 1 + sigmoid[1] * 2, sigmoid[2] * -3 + sigmoid[1] * 4]
    np.testing.assert_allclose(values(LeastSquaresMoE(expert="linear", gating="sigmoid"), THETA, x), expected)
    first = 1 / (1 + np.exp([-0.5, 1.5]))
    relu = first * [1, 0] + (1 - first) * [2, 4]
    np.testing.assert_allclose(values(LeastSquaresMoE(expert="relu"), THETA, x), relu)


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_gates_are_the_weights_of_the_router_that_selects_all(scores):
    router = TopKRouter(num_experts=2, num_selected_experts=2, noise_std=0.0, scores=scores, gate=Linear(bias=True))
    params = {"kernel": jnp.asarray([[1.0, 0.0]]), "bias": jnp.asarray([0.0, 0.5])}
    x = jnp.asarray([[[0.7], [-0.2]]])
    plan = jax.jit(lambda p, x: router.route(p, {}, x).plan)(params, x)
    weights = np.take_along_axis(np.asarray(plan.weight), np.argsort(np.asarray(plan.expert)), axis=-1)[0]
    experts = np.asarray(x[0]) * THETA.reshape(2, 4)[:, 2] + THETA.reshape(2, 4)[:, 3]
    model = LeastSquaresMoE(expert="linear", gating=scores)
    np.testing.assert_allclose(
        values(model, THETA, np.asarray(x[0, :, 0], np.float64)), (weights * experts).sum(axis=1), rtol=1e-6
    )


def test_noiseless_means_give_the_truth_back():
    model = LeastSquaresMoE(expert="tanh")
    draw = np.random.default_rng(0)
    means = mean_responses(values(model, THETA), 1000, 0.0, 2, draw)
    starts = split_starts(THETA, np.array([0.05]), 2, draw, extra=False)
    assert starts.shape == (2, 2, 8)
    found = model.best_fits(starts, X, means, iterations=60)
    off = found["params"] - THETA
    off[:, [0, 1]] -= off[:, [4, 5]]
    off[:, [4, 5]] = 0  # a softmax knows the gates up to a translation
    np.testing.assert_allclose(off, 0, atol=1e-5)
    assert np.all(found["value"] > -1e-15) and np.all(found["slope"] < 1e-8)


def test_means_have_the_deviation_of_their_share_of_the_sample():
    means = mean_responses(np.zeros(50), 5000, 0.3, 400, np.random.default_rng(0))
    assert means.std() == pytest.approx(0.3 / np.sqrt(100), rel=0.03)


def test_split_experts_are_the_one_where_the_gate_is_a_softmax():
    starts = split_starts(THETA, np.array([0.0]), 1, np.random.default_rng(0))
    model = LeastSquaresMoE()
    assert starts.shape == (1, 2, 12)
    for start in starts[0]:
        np.testing.assert_allclose(values(model, start), values(model, THETA), rtol=1e-12)
    closed = split_starts(THETA, np.array([0.0]), 1, np.random.default_rng(0), shared_mass=False)[0, 0]
    assert closed.reshape(3, 4)[:, 0].tolist() == [0.0, 0.5, -4.0]


def test_relu_experts_of_one_gate_may_trade_their_sizes():
    # Shares 1/4 and 3/4 of one expert; sizes 1 + 0.6 and 1 - 0.2 keep the mean, as ReLU is homogeneous.
    first, second = THETA.reshape(2, 4)
    twins = np.stack([first, first])
    twins[:, 0] += np.log([0.25, 0.75])
    twins[:, 2:] *= np.array([[1.6], [0.8]])
    split = np.concatenate([twins.reshape(-1), second])
    model = LeastSquaresMoE(expert="relu")
    np.testing.assert_allclose(values(model, split), values(model, THETA), atol=1e-14)
    assert (
        np.abs(values(LeastSquaresMoE(expert="gelu"), split) - values(LeastSquaresMoE(expert="gelu"), THETA)).max()
        > 0.01
    )


def test_measures_and_misuse():
    found = measure(THETA)
    assert found.log_mass.tolist() == [0.0, 0.5] and found.atoms["gate"].tolist() == [[1.0], [0.0]]
    with pytest.raises(SpecError, match="bound=0.0 must be above 0"):
        LeastSquaresMoE(bound=0.0)


def test_bounded_fits_stay_within():
    model = LeastSquaresMoE(expert="linear", bound=2.5)
    means = values(LeastSquaresMoE(expert="linear"), THETA)[None]
    found = model.best_fits(np.full((1, 1, 8), 0.5) * np.arange(1, 9) / 8, X, means, iterations=60)
    assert np.all(np.abs(found["params"]) <= 2.5) and np.any(
        np.abs(found["params"]) > 2.4
    )  # the truth's last bias is 3
