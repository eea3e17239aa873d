"""The closed forms against NumPy, jax.grad of the density, and samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from moejax.diffusion.gaussian_mixture import GaussianMixture
from moejax.diffusion.predictions import PREDICTIONS, denoised, noised, target
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP

PROCESSES = (DDPM(), VP(), RectifiedFlow())
processes = pytest.mark.parametrize("process", PROCESSES, ids=str)
sizes = pytest.mark.parametrize("size", [2, 64])


def mixture(size, num=3):
    rng = np.random.default_rng(size)
    return GaussianMixture(
        weights=jnp.asarray([0.5, 0.3, 0.2][:num], jnp.float32),
        means=jnp.asarray(rng.normal(size=(num, size)) * 1.5, jnp.float32),
        stds=jnp.asarray([0.2, 0.5, 1.0][:num], jnp.float32),
    )


def noised_batch(process, size, num=64, seed=0):
    data = mixture(size)
    keys = jax.random.split(jax.random.key(seed), 3)
    x0 = data.sample(keys[0], num)
    noise = jax.random.normal(keys[1], x0.shape)
    t = jnp.linspace(0.03, 0.95, num, dtype=jnp.float32)
    return data, x0, noise, t, noised(process, x0, noise, t)


@sizes
@processes
def test_log_density_is_that_of_scipy(process, size):
    data, _, _, t, x = noised_batch(process, size, num=7)
    alpha, sigma = np.asarray(process.alpha(t), np.float64), np.asarray(process.sigma(t), np.float64)
    expected = []
    for i in range(7):
        variances = alpha[i] ** 2 * np.asarray(data.stds, np.float64) ** 2 + sigma[i] ** 2
        parts = [
            np.log(w)
            + scipy.stats.multivariate_normal(alpha[i] * np.asarray(m, np.float64), v * np.eye(size)).logpdf(x[i])
            for w, m, v in zip(data.weights, data.means, variances, strict=True)
        ]
        expected.append(scipy.special.logsumexp(parts))
    np.testing.assert_allclose(data.log_density(process, x, t), expected, rtol=2e-4, atol=2e-3)


@sizes
@processes
def test_noise_is_minus_sigma_times_the_score(process, size):
    data, _, _, t, x = noised_batch(process, size)
    score = jax.jit(jax.grad(lambda x: jnp.sum(data.log_density(process, x, t))))(x)
    sigma = np.asarray(process.sigma(t))[:, None]
    np.testing.assert_allclose(data.denoise(process, x, t).noise, -sigma * np.asarray(score), rtol=1e-3, atol=1e-3)


@sizes
@processes
def test_data_follow_from_the_score_by_tweedie(process, size):
    data, _, _, t, x = noised_batch(process, size)
    score = np.asarray(jax.jit(jax.grad(lambda x: jnp.sum(data.log_density(process, x, t))))(x), np.float64)
    alpha, sigma = (np.asarray(f(t), np.float64)[:, None] for f in (process.alpha, process.sigma))
    x0 = (np.asarray(x, np.float64) + sigma**2 * score) / alpha
    np.testing.assert_allclose(data.denoise(process, x, t).x0, x0, rtol=2e-3, atol=2e-3 / alpha.min())


@sizes
@processes
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_all_predictions_convert_to_the_same(process, size, kind):
    data, _, _, t, x = noised_batch(process, size)
    exact = data.denoise(process, x, t)
    estimate = denoised(kind, process, x, t, target(kind, process, exact.x0, exact.noise, t))
    alpha = np.asarray(process.alpha(t)).min()
    np.testing.assert_allclose(estimate.x0, exact.x0, atol=1e-5 / alpha)
    np.testing.assert_allclose(estimate.noise, exact.noise, atol=1e-4)
    np.testing.assert_allclose(noised(process, exact.x0, exact.noise, t), x, atol=1e-5)


def test_the_posterior_mean_by_numerical_integration():
    process, t = VP(), jnp.full((3,), 0.3, jnp.float32)
    data = GaussianMixture(weights=jnp.array([0.4, 0.6]), means=jnp.array([[-1.0], [1.5]]), stds=jnp.array([0.3, 0.6]))
    x = jnp.array([[-0.5], [0.2], [1.4]])
    grid = np.linspace(-6, 6, 20001)
    prior = 0.4 * scipy.stats.norm(-1.0, 0.3).pdf(grid) + 0.6 * scipy.stats.norm(1.5, 0.6).pdf(grid)
    alpha, sigma = float(process.alpha(t)[0]), float(process.sigma(t)[0])
    weight = prior[None] * scipy.stats.norm(alpha * grid[None], sigma).pdf(np.asarray(x))
    mean = (weight * grid).sum(1) / weight.sum(1)
    np.testing.assert_allclose(data.denoise(process, x, t).x0[:, 0], mean, atol=1e-5)


def test_one_gaussian_by_hand():
    # data N(1, 4), alpha = sigma = 0.5: variance 0.25 * 4 + 0.25 = 1.25; x = 3: x - 0.5 = 2.5
    # x0 = 1 + 0.5 * 4 / 1.25 * 2.5 = 5; noise = 0.5 / 1.25 * 2.5 = 1; 0.5 * 5 + 0.5 * 1 = 3
    data = GaussianMixture(weights=jnp.ones(1), means=jnp.ones((1, 1)), stds=jnp.full(1, 2.0))
    exact = data.denoise(RectifiedFlow(), jnp.array([[3.0]]), jnp.float32(0.5))
    assert float(exact.x0[0, 0]) == pytest.approx(5.0) and float(exact.noise[0, 0]) == pytest.approx(1.0)


def test_samples_have_the_stated_moments():
    data = mixture(2)
    x = np.asarray(data.sample(jax.random.key(0), 40000), np.float64)
    weights, means, stds = (np.asarray(a, np.float64) for a in (data.weights, data.means, data.stds))
    mean = weights @ means
    covariance = sum(
        w * (np.outer(m - mean, m - mean) + s**2 * np.eye(2)) for w, m, s in zip(weights, means, stds, strict=True)
    )
    np.testing.assert_allclose(data.mean(), mean, rtol=1e-5)
    np.testing.assert_allclose(data.covariance(), covariance, rtol=1e-5)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.05)


def test_examples_may_be_pictures():
    process, data = DDPM(), mixture(64)
    flat = jax.random.normal(jax.random.key(1), (5, 64))
    t = jnp.full((5,), 0.5, jnp.float32)
    picture = flat.reshape(5, 4, 8, 2)
    exact = data.denoiser(process)(picture, t)
    assert exact.x0.shape == exact.noise.shape == (5, 4, 8, 2)
    np.testing.assert_array_equal(exact.x0.reshape(5, 64), data.denoise(process, flat, t).x0)
    np.testing.assert_array_equal(data.log_density(process, picture, t), data.log_density(process, flat, t))


def test_the_ends_are_finite():
    data, process = mixture(2), RectifiedFlow()
    x = jnp.array([[0.3, -0.2]])
    start, end = data.denoise(process, x, jnp.float32(0.0)), data.denoise(process, x, jnp.float32(1.0))
    np.testing.assert_allclose(start.x0, x, atol=1e-6)  # without noise x is the data
    np.testing.assert_allclose(end.x0[0], data.mean(), atol=1e-6)  # with nothing but noise, the mean of all data
    np.testing.assert_allclose(end.noise, x, atol=1e-6)
