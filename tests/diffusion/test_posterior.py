"""The step back, by Bayes on Gaussians and against the published formulas of the chain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.diffusion.posterior import learned_log_variance, posterior
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP

PROCESSES = (DDPM(), DDPM(schedule="cosine"), VP(), RectifiedFlow())


def times(*values):
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_by_bayes_on_gaussians(process):
    """x_s ~ N(alpha_s x0, sigma_s^2), x_t | x_s ~ N(a x_s, b): the product of two normal densities, in float64."""
    t, s = times(0.9, 0.5, 0.5, 0.052), times(0.7, 0.2, 0.499, 0.01)
    alpha_t, sigma_t, alpha_s, sigma_s = (
        np.asarray(f(u), np.float64) for u in (t, s) for f in (process.alpha, process.sigma)
    )
    x, x0 = jnp.asarray([[0.3], [-1.0], [2.0], [0.4]]), jnp.asarray([[1.0], [-0.5], [0.25], [0.5]])
    a = alpha_t / alpha_s
    b = sigma_t**2 - a**2 * sigma_s**2
    precision = 1 / sigma_s**2 + a**2 / b
    mean = (alpha_s * np.asarray(x0)[:, 0] / sigma_s**2 + a * np.asarray(x)[:, 0] / b) / precision
    found = jax.jit(lambda x: posterior(process, x, x0, t, s))(x)
    np.testing.assert_allclose(found.mean[:, 0], mean, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(np.exp(found.lower[:, 0]), 1 / precision, rtol=2e-3)
    # data of variance 1: the marginals have variances p = alpha^2 + sigma^2, and the covariance with x_t is a p_s
    power_s, power_t = alpha_s**2 + sigma_s**2, alpha_t**2 + sigma_t**2
    np.testing.assert_allclose(np.exp(found.upper[:, 0]), power_s - (a * power_s) ** 2 / power_t, rtol=2e-3)
    assert (np.asarray(found.lower) <= np.asarray(found.upper)).all()


@pytest.mark.parametrize("process", [DDPM(num_steps=50), DDPM(schedule="cosine", num_steps=50)], ids=str)
def test_the_published_formulas_of_the_chain(process):
    betas, alpha_bars = process.betas, process.alpha_bars
    before = np.concatenate([[1.0], alpha_bars[:-1]])
    t = jnp.asarray((np.arange(50) + 1) / 50, jnp.float32)
    s = jnp.asarray(np.arange(50) / 50, jnp.float32)
    rng = np.random.default_rng(0)
    x, x0 = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    found = posterior(process, jnp.asarray(x, jnp.float32), jnp.asarray(x0, jnp.float32), t, s)
    mean = (np.sqrt(before) * betas / (1 - alpha_bars))[:, None] * x0
    mean += (np.sqrt(1 - betas) * (1 - before) / (1 - alpha_bars))[:, None] * x
    variance = betas * (1 - before) / (1 - alpha_bars)
    variance[0] = variance[1]  # the clipping of the published code
    np.testing.assert_allclose(found.mean, mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.lower[:, 0], np.log(variance), atol=2e-3)
    np.testing.assert_allclose(found.upper[:, 0], np.log(betas), atol=2e-3)


def test_the_last_step_gives_the_data():
    process = DDPM()
    x, x0 = jnp.ones((2, 3, 3, 1)), jnp.full((2, 3, 3, 1), -0.25)
    found = posterior(process, x, x0, times(0.001, 0.04), times(0.0, 0.0))
    np.testing.assert_allclose(found.mean, x0, atol=1e-5)
    assert found.lower.shape == (2, 1, 1, 1) and np.isfinite(found.lower).all()


def test_from_pure_noise_on_a_straight_line():
    """At t = 1 nothing is known of x_s but the estimate: x_s ~ N(alpha_s x0, sigma_s^2)."""
    found = posterior(RectifiedFlow(), jnp.full((1, 2), 3.0), jnp.full((1, 2), 0.5), times(1.0), times(0.8))
    np.testing.assert_allclose(found.mean, 0.2 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(np.exp(found.lower), 0.64, rtol=1e-5)


def test_two_steps_are_one():
    """q(x_r | x_t, x0) is q(x_r | x_s, x0) averaged over q(x_s | x_t, x0)."""
    process = VP()
    x, x0 = jnp.array([[0.7]]), jnp.array([[-0.4]])
    r, s, t = times(0.1), times(0.35), times(0.6)
    late, direct = posterior(process, x, x0, t, s), posterior(process, x, x0, t, r)
    early = posterior(process, late.mean, x0, s, r)
    np.testing.assert_allclose(early.mean, direct.mean, rtol=1e-4)
    slope = float(jax.grad(lambda x: posterior(process, x, x0, s, r).mean[0, 0])(x)[0, 0])
    np.testing.assert_allclose(np.exp(early.lower) + slope**2 * np.exp(late.lower), np.exp(direct.lower), rtol=1e-4)


def test_learned_variance_lies_between_the_bounds():
    lower, upper = jnp.full((1, 1), -4.0), jnp.full((1, 1), -2.0)
    outputs = jnp.array([[-1.0, 0.0, 1.0, 0.5]], jnp.bfloat16)
    found = learned_log_variance(outputs, lower, upper)
    np.testing.assert_allclose(found, [[-4.0, -3.0, -2.0, -2.5]])
    assert found.dtype == jnp.float32
