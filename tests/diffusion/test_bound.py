"""The variational bound: each term against NumPy and SciPy, the whole against a known entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from moejax.core.errors import SpecError
from moejax.diffusion.bound import bound_term, discretised_log_likelihood, prior_term, variational_bound
from moejax.diffusion.contract import Denoised
from moejax.diffusion.gaussian_mixture import GaussianMixture
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.vp import VP

LEVELS = 2.0 * np.arange(256) / 255.0 - 1.0


def test_the_levels_share_all_probability():
    for mean, std in ((0.1, 0.02), (0.98, 0.3), (-1.4, 0.5), (0.0, 5.0)):
        found = discretised_log_likelihood(
            jnp.asarray(LEVELS[None], jnp.float32), jnp.full((1, 256), mean), jnp.full((1, 1), 2 * np.log(std))
        )
        assert float(jnp.exp(found).sum()) == pytest.approx(1.0, abs=1e-4)


def test_the_likelihood_of_a_level():
    x, mean, std = LEVELS[[0, 3, 128, 200, 255]], 0.2, 0.4
    normal = scipy.stats.norm(mean, std)
    expected = normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)
    expected[0], expected[-1] = normal.cdf(x[0] + 1 / 255), normal.sf(x[-1] - 1 / 255)
    found = discretised_log_likelihood(
        jnp.asarray(x[None], jnp.float32), jnp.full((1, 5), mean), jnp.full((1, 1), 2 * np.log(std))
    )
    np.testing.assert_allclose(np.exp(found[0]), expected, rtol=2e-3)


def chain_term(process, step, x0, x, said_x0, share):
    """The term in float64, from betas alone, as published."""
    betas, alpha_bars = process.betas, process.alpha_bars
    before = np.concatenate([[1.0], alpha_bars[:-1]])
    variances = betas * (1 - before) / (1 - alpha_bars)
    variances[0] = variances[1]

    def mean(data):
        gain = np.sqrt(before[step]) * betas[step] / (1 - alpha_bars[step])
        return gain * data + np.sqrt(1 - betas[step]) * (1 - before[step]) / (1 - alpha_bars[step]) * x

    said_log = share * np.log(betas[step]) + (1 - share) * np.log(variances[step])
    if step == 0:
        normal = scipy.stats.norm(mean(said_x0), np.exp(0.5 * said_log))
        below = np.where(x0 < -0.999, 0.0, normal.cdf(x0 - 1 / 255))
        above = np.where(x0 > 0.999, 1.0, normal.cdf(x0 + 1 / 255))
        return -np.log2(above - below).mean()
    true, said = variances[step], np.exp(said_log)
    nats = 0.5 * (np.log(said / true) + true / said - 1 + (mean(x0) - mean(said_x0)) ** 2 / said)
    return nats.mean() / np.log(2)


@pytest.mark.parametrize("process", [DDPM(num_steps=40), DDPM(schedule="cosine", num_steps=40)], ids=str)
@pytest.mark.parametrize("learned", [True, False])
def test_each_term(process, learned):
    rng = np.random.default_rng(0)
    steps = np.array([0, 1, 2, 10, 25, 39])
    x0 = rng.choice(LEVELS, size=(6, 3, 2, 1))
    x0[0, 0, 0, 0], x0[0, 1, 0, 0] = -1.0, 1.0
    noise = rng.normal(size=x0.shape)
    scale = np.sqrt(process.alpha_bars[steps])[:, None, None, None]
    x = scale * x0 + np.sqrt(1 - scale**2) * noise
    said = np.clip(x0 + 0.01 * rng.normal(size=x0.shape), -1, 1)
    output = rng.uniform(-1, 1, size=x0.shape)
    share = (output + 1) / 2 if learned else np.zeros(x0.shape)
    expected = [chain_term(process, step, x0[i], x[i], said[i], share[i]) for i, step in enumerate(steps)]
    single = [jnp.asarray(a, jnp.float32) for a in (x0, x, said, output, (steps + 1) / 40)]
    estimate = Denoised(x0=single[2], noise=single[1], variance=single[3] if learned else None)
    found = jax.jit(lambda *a: bound_term(process, *a, estimate))(single[0], single[1], single[4])
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=2e-4)


def test_a_perfect_network_pays_only_for_the_last_step():
    process, x0 = DDPM(num_steps=50), jnp.full((2, 4), 0.2)
    x = x0 + 0.1
    times = jnp.array([0.5, 0.9], jnp.float32)
    term = jax.jit(lambda x: bound_term(process, x0, x, times, Denoised(x0=x0, noise=x)))(x)
    np.testing.assert_allclose(term, 0.0, atol=1e-5)


def test_the_prior_term_is_the_distance_to_standard_noise():
    process, x0 = DDPM(schedule="cosine"), jnp.array([[0.5, -1.0]])
    assert 0 <= float(prior_term(process, x0)[0]) < 1e-4
    short = VP(beta_min=0.1, beta_max=1.0)
    alpha, sigma = (float(f(jnp.float32(1.0))) for f in (short.alpha, short.sigma))
    nats = [-np.log(sigma) + (sigma**2 + (alpha * m) ** 2) / 2 - 0.5 for m in (0.5, -1.0)]
    np.testing.assert_allclose(prior_term(short, x0), np.mean(nats) / np.log(2), rtol=1e-5)


@pytest.mark.slow
def test_the_bound_of_the_exact_denoiser_is_the_entropy_and_the_last_step():
    """Data are two levels by 3 to 1: 0.811 bits. With many steps all terms but the last add up to them, never to less."""
    levels = jnp.asarray(LEVELS[[51, 178], None], jnp.float32)
    data = GaussianMixture(weights=jnp.array([0.25, 0.75]), means=levels, stds=jnp.zeros(2))
    entropy = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    high = np.arange(2000) % 4 > 0
    x0 = levels[high.astype(int)]
    found, error = {}, {}
    for num_steps in (40, 200):
        process = DDPM(num_steps=num_steps)
        bound = jax.jit(lambda x0, key, p=process: variational_bound(p, data.denoiser(p), x0, key))
        values = np.asarray(bound(x0, jax.random.key(1)), np.float64)
        # The last step knows the level, but its variance leaves it no more than the mass of a normal within it.
        betas, alpha_bars = process.betas, process.alpha_bars
        std = np.sqrt(betas[1] * (1 - alpha_bars[0]) / (1 - alpha_bars[1]))
        last = -np.log2(2 * scipy.stats.norm.cdf(1 / 255 / std) - 1)
        found[num_steps], error[num_steps] = values.mean() - last, values.std() / np.sqrt(len(values))
    print("bits beyond the last step, their errors, entropy:", found, error, entropy)
    assert all(found[n] > entropy - 3 * error[n] for n in found)
    assert found[200] < entropy * 1.05 + 3 * error[200]
    assert found[200] < found[40]


def test_a_chain_needs_steps():
    x = jnp.zeros((1, 2))
    with pytest.raises(SpecError, match="VP has no steps of its own.*num_steps=1000"):
        bound_term(VP(), x, x, jnp.array([0.5]), Denoised(x0=x, noise=x))
    assert np.isfinite(bound_term(VP(), x, x, jnp.array([0.5]), Denoised(x0=x, noise=x), num_steps=100)).all()
