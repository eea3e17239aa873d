"""Each process against its formula in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from moejax.core.errors import SpecError
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP


def steps(num_steps):
    return jnp.asarray((np.arange(num_steps) + 1) / num_steps, jnp.float32)


def test_linear_betas_are_those_of_the_paper():
    process = DDPM()
    betas = 1e-4 + (0.02 - 1e-4) * np.arange(1000) / 999
    np.testing.assert_allclose(process.betas, betas, rtol=1e-12)
    alpha_bar = np.empty(1000)
    product = 1.0
    for i, beta in enumerate(betas):
        product *= 1.0 - beta
        alpha_bar[i] = product
    np.testing.assert_allclose(process.alpha_bars, alpha_bar, rtol=1e-10)
    np.testing.assert_allclose(process.alpha(steps(1000)), np.sqrt(alpha_bar), rtol=2e-5)
    np.testing.assert_allclose(process.sigma(steps(1000)), np.sqrt(1 - alpha_bar), rtol=2e-5)
    # The value that everyone quotes: about 4e-5 of the picture's power is left.
    assert process.alpha_bars[-1] == pytest.approx(4.0358e-5, rel=1e-3)


def test_cosine_betas_are_those_of_the_paper():
    process = DDPM(schedule="cosine")

    def f(t):
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    betas = np.array([min(1 - f((i + 1) / 1000) / f(i / 1000), 0.999) for i in range(1000)])
    np.testing.assert_allclose(process.betas, betas, rtol=1e-9)
    assert betas[-1] == 0.999 and (betas[:-1] < 0.999).all()
    np.testing.assert_allclose(process.alpha_bars, np.cumprod(1 - betas), rtol=1e-9)
    np.testing.assert_allclose(process.alpha_bars[:999], f((np.arange(999) + 1) / 1000) / f(0), rtol=1e-9)


def test_a_shorter_chain_keeps_the_path():
    short, long = DDPM(num_steps=100), DDPM()
    np.testing.assert_allclose(short.betas, np.linspace(1e-3, 0.2, 100), rtol=1e-12)
    np.testing.assert_allclose(np.log(short.alpha_bars[49]), np.log(long.alpha_bars[499]), rtol=0.1)


def test_between_the_steps_log_alpha_bar_is_linear():
    process = DDPM(num_steps=50)
    logs = np.concatenate([[0.0], np.log(process.alpha_bars)])
    t = np.array([0.0, 0.005, 0.02, 0.031, 0.5, 0.517, 0.999, 1.0])
    expected = np.interp(t, np.arange(51) / 50, logs)
    np.testing.assert_allclose(process.log_alpha_bar(jnp.asarray(t, jnp.float32)), expected, rtol=2e-5, atol=1e-9)


def test_the_chain_draws_its_steps_and_tells_their_index():
    process = DDPM(num_steps=40)
    times = np.asarray(process.sample_time(jax.random.key(0), (20000,)))
    index = np.round(times * 40) - 1
    np.testing.assert_allclose(times, (index + 1) / 40, rtol=1e-6)
    assert set(index) == set(range(40))
    counts = np.bincount(index.astype(int), minlength=40)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_allclose(process.model_time(steps(40)), np.arange(40), atol=1e-5)


def test_variance_preserving_is_the_integral_of_beta():
    process = VP(beta_min=0.2, beta_max=7.0)
    t = np.array([1e-3, 0.1, 0.45, 0.8, 1.0])
    integrals = [scipy.integrate.quad(lambda s: 0.2 + s * (7.0 - 0.2), 0.0, end)[0] for end in t]
    alpha = np.exp(-0.5 * np.array(integrals))
    np.testing.assert_allclose(process.alpha(jnp.asarray(t, jnp.float32)), alpha, rtol=1e-5)
    np.testing.assert_allclose(process.sigma(jnp.asarray(t, jnp.float32)), np.sqrt(1 - alpha**2), rtol=1e-5)
    np.testing.assert_allclose(process.model_time(jnp.asarray(t, jnp.float32)), 999 * t, rtol=1e-6)


def test_the_cosine_path_in_continuous_time():
    process = VP(schedule="cosine")
    t = np.array([1e-3, 0.01, 0.3, 0.7, 0.9946])
    start = np.cos(0.008 / 1.008 * np.pi / 2)
    alpha = np.cos((t + 0.008) / 1.008 * np.pi / 2) / start
    np.testing.assert_allclose(process.alpha(jnp.asarray(t, jnp.float32)), alpha, rtol=3e-5)
    np.testing.assert_allclose(process.sigma(jnp.asarray(t, jnp.float32)), np.sqrt(1 - alpha**2), rtol=1e-5)
    assert process.max_time == 0.9946


def test_the_continuous_path_is_the_limit_of_the_chain():
    t = jnp.linspace(0.05, 0.95, 19, dtype=jnp.float32)
    np.testing.assert_allclose(DDPM(schedule="cosine").sigma(t), VP(schedule="cosine").sigma(t), rtol=1e-3)
    np.testing.assert_allclose(DDPM().sigma(t), VP().sigma(t), rtol=2e-2)


def test_rectified_flow_is_straight():
    process = RectifiedFlow()
    t = jnp.linspace(0.0, 1.0, 11, dtype=jnp.float32)
    np.testing.assert_array_equal(process.sigma(t), t)
    np.testing.assert_array_equal(process.alpha(t), 1.0 - t)
    np.testing.assert_allclose(process.model_time(t), 1000 * np.asarray(t))


@pytest.mark.parametrize("process", [RectifiedFlow(), VP(), VP(schedule="cosine")], ids=str)
def test_uniform_times(process):
    times = np.asarray(process.sample_time(jax.random.key(3), (5000,)))
    span = scipy.stats.uniform(process.min_time, process.max_time - process.min_time)
    assert scipy.stats.kstest(times, span.cdf).pvalue > 1e-3


def test_logit_normal_times():
    process = RectifiedFlow(time="logit_normal", mean=0.5, std=0.8)
    times = np.asarray(process.sample_time(jax.random.key(3), (5000,)), np.float64)
    assert scipy.stats.kstest(np.log(times / (1 - times)), scipy.stats.norm(0.5, 0.8).cdf).pvalue > 1e-3
    extreme = RectifiedFlow(time="logit_normal", std=50.0).sample_time(jax.random.key(0), (1000,))
    assert np.float32(1e-3) <= extreme.min() and extreme.max() <= 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDPM(schedule="cosin"), "Did you mean 'cosine'"),
        (lambda: DDPM(num_steps=20), "at least 21"),
        (lambda: DDPM(schedule="cosine", num_steps=1), "at least 2"),
        (lambda: VP(schedule="liner"), "Did you mean 'linear'"),
        (lambda: VP(beta_min=0.0), "beta_min=0.0"),
        (lambda: VP(beta_min=3.0, beta_max=1.0), "beta_max=1.0"),
        (lambda: VP(min_time=0.0), "min_time=0.0"),
        (lambda: RectifiedFlow(time="logitnormal"), "Did you mean 'logit_normal'"),
        (lambda: RectifiedFlow(std=0.0), "std=0.0"),
        (lambda: RectifiedFlow(max_time=1.2), "max_time=1.2"),
    ],
)
def test_wrong_fields_are_named(make, message):
    with pytest.raises(SpecError, match=message):
        make()
