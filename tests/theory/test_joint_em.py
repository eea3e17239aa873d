"""Gaussian-gated experts: densities by scipy and by the router's gate, samples by moments; EM climbs, and finds what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from moejax.routing.gates.gaussian import Gaussian
from moejax.theory.gaussian_gated_moe import (
    GaussianGated,
    features,
    gate_scores,
    joint_coefficients,
    log_density,
    num_parameters,
    sample,
)
from moejax.theory.joint_em import blocked, fit, step

PARAMS = GaussianGated(
    log_mass=np.log([0.3, 0.7]),
    centre=np.array([[0.0, 1.0], [-1.0, 0.5]]),
    covariance=np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.4, 0.0], [0.0, 0.9]]]),
    weight=np.array([[1.0, -2.0], [0.5, 0.0]]),
    bias=np.array([0.5, -1.0]),
    variance=np.array([0.25, 0.04]),
)
X, Y = np.array([[0.2, -0.1], [1.0, 2.0], [-1.5, 0.3]]), np.array([0.4, -1.0, -1.9])


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def test_densities_are_those_of_a_joint_mixture():
    gates = np.stack([multivariate_normal(PARAMS.centre[i], PARAMS.covariance[i]).pdf(X) for i in (0, 1)], axis=1)
    gates = gates * np.exp(PARAMS.log_mass)
    joint = gates * norm.pdf(Y[:, None], X @ PARAMS.weight.T + PARAMS.bias, np.sqrt(PARAMS.variance))
    with jax.enable_x64(True):
        params, x, y = on_device((PARAMS, X, Y))
        np.testing.assert_allclose(np.exp(features(X, Y) @ np.asarray(joint_coefficients(params))), joint, rtol=1e-12)
        np.testing.assert_allclose(np.exp(gate_scores(params, x)), gates, rtol=1e-12)
        found = np.exp(log_density(params, x, y))
    np.testing.assert_allclose(found, joint.sum(axis=1) / gates.sum(axis=1), rtol=1e-12)
    assert num_parameters(2, 1) == 11 and num_parameters(4, 1) == 23 and num_parameters(1, 2) == 9


def test_the_gate_is_the_routers_where_covariances_are_diagonal():
    scale = np.array([[0.5, 1.0], [2.0, 0.3]])
    covariance = np.stack([np.diag(row**2) for row in scale])
    with jax.enable_x64(True):
        params = on_device(PARAMS.replace(covariance=covariance))
        own = {"kernel": PARAMS.centre.T, "log_scale": np.log(scale).T, "bias": PARAMS.log_mass}
        expected = Gaussian().logits(on_device(own), jnp.asarray(X))
        np.testing.assert_allclose(gate_scores(params, jnp.asarray(X)), expected, rtol=1e-12)


def test_samples_have_the_moments_of_the_parameters():
    x, y = sample(PARAMS, 200_000, np.random.default_rng(0))
    mass = np.exp(PARAMS.log_mass)
    np.testing.assert_allclose(x.mean(axis=0), mass @ PARAMS.centre, atol=0.01)
    mean = np.sum(PARAMS.weight * PARAMS.centre, axis=1) + PARAMS.bias
    assert y.mean() == pytest.approx(mass @ mean, abs=0.02)


def test_steps_never_lower_the_likelihood_and_end_at_the_truth():
    x, y = sample(PARAMS, 20_000, np.random.default_rng(1))
    with jax.enable_x64(True):
        params = on_device(
            PARAMS.replace(centre=PARAMS.centre + 0.3, bias=PARAMS.bias - 0.4, log_mass=np.log([0.5, 0.5]))
        )
        data, values = on_device(blocked(x, y)), []
        one_step = jax.jit(step)
        for _ in range(12):
            params, value = one_step(params, data)
            values.append(float(value))
        assert np.all(np.diff(values) > 0)
        found = fit(on_device(PARAMS), data, 200, 1e-9)
        room = fit(on_device(PARAMS), on_device(blocked(x, y, 30_000)), 200, 1e-9)
    assert float(room.value) == pytest.approx(float(found.value), rel=1e-14)
    assert bool(found.converged) and 2 < int(found.steps) < 200
    for name in ("centre", "covariance", "weight", "bias", "variance", "log_mass"):
        np.testing.assert_allclose(getattr(found.params, name), getattr(PARAMS, name), atol=0.03)


def test_one_expert_is_a_regression():
    draw = np.random.default_rng(2)
    x = draw.standard_normal((50, 1))
    y = 2 * x[:, 0] + 1 + draw.standard_normal(50)
    start = GaussianGated(
        log_mass=np.zeros(1), centre=np.zeros((1, 1)), covariance=np.ones((1, 1, 1)), weight=np.zeros((1, 1)), bias=np.zeros(1),
        variance=np.ones(1),
    )  # fmt: skip
    with jax.enable_x64(True):
        found = fit(on_device(start), on_device(blocked(x, y)), 3, 0.0).params
    slope, constant = np.polyfit(x[:, 0], y, 1)
    np.testing.assert_allclose([found.weight[0, 0], found.bias[0]], [slope, constant], rtol=1e-10)
    np.testing.assert_allclose(found.variance[0], np.mean((y - slope * x[:, 0] - constant) ** 2), rtol=1e-10)
