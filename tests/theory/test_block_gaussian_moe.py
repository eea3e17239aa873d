"""Densities by scipy, steps of EM by the likelihood and by the models that they contain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from moejax.core.errors import SpecError
from moejax.theory import gaussian_gated_moe, joint_em
from moejax.theory.block_gaussian_moe import BlockGaussian, fits, log_density, num_parameters, products, sample
from moejax.theory.covariance_blocks import together

BLOCKS = np.array([[0, 0, 1], [0, 1, 0]])
PARAMS = BlockGaussian(
    log_mass=np.log([0.3, 0.7]),
    centre=np.array([0.0, 1.0]),
    spread=np.array([0.5, 0.2]),
    weight=np.array([[[1, -1, 0.5], [0, 2, 0], [1, 0, 0]], [[-1, 0.5, 0], [2, -1, 0.2], [0, 1, 1]]]),
    covariance=np.array([[[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0.3]], [[0.4, 0, 0.1], [0, 0.2, 0], [0.1, 0, 0.9]]]),
)


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def many(tree, count=1):
    return jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], count, axis=0), tree)


def test_densities_are_those_of_scipy():
    x, y = np.array([0.1, -0.7, 1.3]), np.array([[0.5, 0.1, -1.0], [2.0, 1.0, 0.0], [1.0, -1.0, 2.5]])
    gates = np.exp(PARAMS.log_mass) * norm.pdf(x[:, None], PARAMS.centre, np.sqrt(PARAMS.spread))
    experts = [
        [multivariate_normal(PARAMS.weight[i] @ [1, a, a * a], PARAMS.covariance[i]).pdf(row) for i in (0, 1)]
        for a, row in zip(x, y, strict=True)
    ]
    expected = np.sum(gates / gates.sum(axis=1, keepdims=True) * experts, axis=1)
    with jax.enable_x64(True):
        rows = jnp.asarray(products(x, y, 2).products[0, :3])
        np.testing.assert_allclose(np.exp(log_density(on_device(PARAMS), rows)), expected, rtol=1e-12)


def test_parameters_are_counted():
    # Two masses, one free; two centres, two spreads; 2 * 3 * 3 weights; 3 variances and one pair in either expert.
    assert num_parameters(BLOCKS, 2) == 1 + 2 + 2 + 18 + 2 * 4
    assert num_parameters(np.zeros((2, 1), int), 1) == gaussian_gated_moe.num_parameters(2, 1)


def test_samples_have_the_moments_of_one_expert():
    one = jax.tree.map(lambda leaf: leaf[1:], PARAMS).replace(log_mass=np.zeros(1))
    x, y = sample(one, 200_000, np.random.default_rng(0))
    residual = y - np.stack([np.ones_like(x), x, x * x], axis=1) @ PARAMS.weight[1].T
    assert x.mean() == pytest.approx(1.0, abs=0.005) and x.var() == pytest.approx(0.2, abs=0.005)
    np.testing.assert_allclose(np.cov(residual.T), PARAMS.covariance[1], atol=0.01)


def test_steps_climb_to_the_truth_and_zeros_stay_zero():
    x, y = sample(PARAMS, 10_000, np.random.default_rng(1))
    start = PARAMS.replace(weight=PARAMS.weight + 0.2, covariance=np.stack([np.eye(3)] * 2))
    with jax.enable_x64(True):
        data, within = on_device(products(x, y, 2)), jnp.asarray(together(BLOCKS)[None])
        values, params = [], many(start)
        for _ in range(8):
            found = fits(params, within, data, 1, 0.0, 0.0)
            values.append(float(found.value[0]))
            params = found.params
        assert np.all(np.diff(values) > 0)
        found = fits(many(start, 2), jnp.asarray(together(np.stack([BLOCKS, BLOCKS * 0]))), data, 300, 1e-7, 0.0)
    assert np.all(found.converged)
    assert float(found.value[1]) > float(found.value[0])  # more free numbers fit more closely
    first = jax.tree.map(lambda leaf: np.asarray(leaf[0]), found.params)
    assert np.all(first.covariance[together(BLOCKS) == 0] == 0)
    for name in ("log_mass", "centre", "spread", "covariance"):
        np.testing.assert_allclose(getattr(first, name), getattr(PARAMS, name), atol=0.06)
    np.testing.assert_allclose(
        first.weight, PARAMS.weight, atol=0.25
    )  # x and its square are nearly one thing in the second expert


def test_one_response_is_the_gaussian_gated_mixture():
    draw = np.random.default_rng(2)
    x, y = draw.standard_normal(300), draw.standard_normal(300)
    start = BlockGaussian(
        log_mass=np.log([0.4, 0.6]), centre=np.array([-0.5, 0.5]), spread=np.array([1.0, 0.8]),
        weight=np.array([[[0.1, 1.0]], [[-0.2, -1.0]]]), covariance=np.array([[[1.0]], [[0.7]]]),
    )  # fmt: skip
    same = gaussian_gated_moe.GaussianGated(
        log_mass=start.log_mass, centre=start.centre[:, None], covariance=start.spread[:, None, None],
        weight=start.weight[:, 0, 1:], bias=start.weight[:, 0, 0], variance=start.covariance[:, 0, 0],
    )  # fmt: skip
    with jax.enable_x64(True):
        data = on_device(products(x, y[:, None], 1))
        found = fits(many(start), jnp.ones((1, 2, 1, 1)), data, 5, 0.0, 0.0)
        expected = joint_em.fit(on_device(same), data, 5, 0.0)
    np.testing.assert_allclose(found.value[0], expected.value, rtol=1e-12)
    np.testing.assert_allclose(found.params.weight[0, :, 0, 1], expected.params.weight[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.params.covariance[0, :, 0, 0], expected.params.variance, rtol=1e-9)


def test_a_constant_is_refused():
    with pytest.raises(SpecError, match="degree=0 must be at least 1"):
        products(np.zeros(3), np.zeros((3, 2)), 0)
