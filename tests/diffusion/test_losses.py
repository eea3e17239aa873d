"""Losses by hand, their minimisers against the analytic mixture, and the published weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.diffusion.bound import bound_term
from moejax.diffusion.contract import Denoised
from moejax.diffusion.gaussian_mixture import GaussianMixture
from moejax.diffusion.losses import check_loss, hybrid, min_snr_weight, simple
from moejax.diffusion.predictions import PREDICTIONS, denoised, noised, target
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP

PROCESSES = (DDPM(), VP(), RectifiedFlow())
kinds = pytest.mark.parametrize("kind", PREDICTIONS)


def mixture(size):
    rng = np.random.default_rng(size)
    return GaussianMixture(
        weights=jnp.array([0.6, 0.4]),
        means=jnp.asarray(rng.normal(size=(2, size)), jnp.float32),
        stds=jnp.array([0.3, 0.7]),
    )


def draw(process, size, num, seed=0):
    data = mixture(size)
    keys = jax.random.split(jax.random.key(seed), 3)
    x0 = data.sample(keys[0], num)
    noise = jax.random.normal(keys[1], x0.shape)
    t = jax.random.uniform(keys[2], (num,), jnp.float32, 0.05, 0.95)
    return data, x0, noise, t, noised(process, x0, noise, t)


def test_simple_by_hand():
    x0, noise, output = jnp.array([[1.0, 0.0]]), jnp.array([[2.0, -2.0]]), jnp.array([[0.0, 1.0]])
    t = jnp.array([0.5], jnp.float32)
    # flow: target (1, -2), errors (1, -3): (1 + 9) / 2
    np.testing.assert_allclose(simple("flow", RectifiedFlow(), x0, noise, t, output), [5.0])
    np.testing.assert_allclose(simple("noise", RectifiedFlow(), x0, noise, t, output), [(4 + 9) / 2])
    assert simple("x0", DDPM(), x0, noise, t, output.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("size", [2, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("process", PROCESSES, ids=str)
@kinds
def test_the_minimiser_is_the_analytic_prediction(process, size, kind):
    """Any change of the prediction, as a function of x_t and t, has a slope of 0 there: a scale, an offset, a waviness."""
    data, x0, noise, t, x = draw(process, size, 8000)
    exact = data.denoise(process, x, t)
    best = target(kind, process, exact.x0, exact.noise, t)
    directions = (jnp.ones_like(x), best, x, jnp.sin(3.0 * x), jnp.broadcast_to(jnp.cos(5.0 * t)[:, None], x.shape))

    def slopes(origin):
        each = [
            jax.jvp(lambda o: simple(kind, process, x0, noise, t, o), (origin,), (direction,))[1]
            for direction in directions
        ]
        return np.asarray(jnp.stack(each), np.float64)

    found = slopes(best)
    error = found.std(axis=1) / np.sqrt(found.shape[1])
    assert (np.abs(found.mean(axis=1)) < 4.5 * error).all()
    moved = slopes(best + 0.2)  # a loss whose slope vanished everywhere would pass the check above
    assert (moved.mean(axis=1) > 6 * error)[0]


@pytest.mark.slow
@kinds
def test_no_other_prediction_is_better(kind):
    process = DDPM()
    data, x0, noise, t, x = draw(process, 2, 20000)
    exact = data.denoise(process, x, t)
    best = target(kind, process, exact.x0, exact.noise, t)
    rough = denoised("x0", process, x, t, 0.5 * x)
    others = {"rough": target(kind, process, rough.x0, rough.noise, t), "shrunk": 0.9 * best, "grown": 1.1 * best}
    least = float(simple(kind, process, x0, noise, t, best).mean())
    for name, other in others.items():
        assert float(simple(kind, process, x0, noise, t, other).mean()) > least, name


@pytest.mark.parametrize("kind", ["noise", "flow"])
def test_hybrid_is_simple_plus_the_weighted_bound(kind):
    process = DDPM(num_steps=100)
    _, x0, noise, t, x = draw(process, 4, 6)
    t = jnp.round(t * 100) / 100
    x = noised(process, x0, noise, t)
    output = target(kind, process, x0, noise, t) + 0.1
    variance = jnp.tanh(jax.random.normal(jax.random.key(5), x.shape))

    @jax.jit
    def both(output, variance):
        estimate = denoised(kind, process, x, t, output, variance)
        expected = simple(kind, process, x0, noise, t, output) + 0.002 * 100 * bound_term(process, x0, x, t, estimate)
        return hybrid(kind, process, x0, noise, t, output, variance, bound_weight=0.002), expected

    found, expected = both(output, variance)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_bound_moves_the_variance_only():
    process = DDPM(num_steps=100)
    _, x0, noise, t, _ = draw(process, 4, 6)
    output, variance = noise + 0.1, jnp.full(x0.shape, 0.3)

    def loss(output, variance):
        return jnp.sum(hybrid("noise", process, x0, noise, t, output, variance))

    by_output, by_variance = jax.jit(jax.grad(loss, (0, 1)))(output, variance)
    plain = jax.grad(lambda o: jnp.sum(simple("noise", process, x0, noise, t, o)))(output)
    np.testing.assert_allclose(by_output, plain, rtol=1e-5)
    assert (np.asarray(by_variance) != 0).all() and np.isfinite(by_variance).all()


def test_gradients_are_finite_at_every_step():
    process = DDPM()
    t = jnp.array([1, 2, 3, 500, 999, 1000], jnp.float32) / 1000
    x0 = jnp.array([[-1.0, 1.0, 0.1]] * 6)
    noise = jax.random.normal(jax.random.key(0), x0.shape)
    for kind in PREDICTIONS:

        def loss(output, variance, kind=kind):
            return jnp.sum(hybrid(kind, process, x0, noise, t, output, variance))

        slope = jax.jit(jax.grad(loss, (0, 1)))
        for value in (-1.0, 0.0, 1.0):
            gradients = slope(jnp.zeros_like(x0), jnp.full(x0.shape, value))
            assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.slow
def test_the_learned_variance_of_the_bound_is_that_of_the_data():
    """The best step variance for a given mean is E[(mean - true mean)^2] + the lower variance (Nichol & Dhariwal)."""
    process, size = DDPM(num_steps=50), 1
    data = GaussianMixture(weights=jnp.ones(1), means=jnp.zeros((1, size)), stds=jnp.ones(1))
    x0 = data.sample(jax.random.key(0), 20000)
    noise = jax.random.normal(jax.random.key(1), x0.shape)
    t = jnp.full(x0.shape[:1], 0.4, jnp.float32)
    x = noised(process, x0, noise, t)
    exact = data.denoise(process, x, t)

    def bound(variance):
        estimate = Denoised(x0=exact.x0, noise=exact.noise, variance=jnp.full(x.shape, variance))
        return jnp.mean(bound_term(process, x0, x, t, estimate))

    # data of unit variance: the true reverse variance is the upper bound, reached at 1
    slope = jax.jit(jax.grad(bound))
    assert float(slope(jnp.float32(0.8))) < 0 < float(slope(jnp.float32(1.2)))


def test_min_snr_weights_are_the_published_ones():
    for process in (DDPM(), VP()):
        t = jnp.linspace(0.01, 0.99, 50, dtype=jnp.float32)
        snr = (np.asarray(process.alpha(t), np.float64) / np.asarray(process.sigma(t), np.float64)) ** 2
        capped = np.minimum(snr, 5.0)
        assert (snr > 5).any() and (snr < 5).any()
        np.testing.assert_allclose(min_snr_weight(process, "noise", t), capped / snr, rtol=1e-4)
        np.testing.assert_allclose(min_snr_weight(process, "x0", t), capped, rtol=1e-4)
        np.testing.assert_allclose(min_snr_weight(process, "velocity", t), capped / (snr + 1), rtol=1e-4)


@pytest.mark.parametrize("process", PROCESSES, ids=str)
@kinds
def test_weighted_losses_agree_for_all_predictions(process, kind):
    """The weight makes every simple loss min(SNR, gamma) times the squared error of x0."""
    _, x0, noise, t, x = draw(process, 3, 20)
    said = denoised("x0", process, x, t, x0 + 0.3)
    output = target(kind, process, said.x0, said.noise, t)
    weighted = min_snr_weight(process, kind, t, 2.0) * simple(kind, process, x0, noise, t, output)
    snr = (np.asarray(process.alpha(t)) / np.asarray(process.sigma(t))) ** 2
    np.testing.assert_allclose(weighted, np.minimum(snr, 2.0) * 0.09, rtol=2e-3)


@kinds
def test_weights_at_the_ends(kind):
    weights = min_snr_weight(RectifiedFlow(), kind, jnp.array([0.001, 0.5, 1.0], jnp.float32))
    assert np.isfinite(weights).all() and (np.asarray(weights) >= 0).all()


def test_bad_input_is_named():
    x, t = jnp.zeros((1, 2)), jnp.array([0.5], jnp.float32)
    with pytest.raises(SpecError, match="Did you mean 'noise'"):
        min_snr_weight(DDPM(), "nois", t)
    with pytest.raises(SpecError, match="gamma=0.0 must be positive"):
        min_snr_weight(DDPM(), "noise", t, 0.0)
    with pytest.raises(SpecError, match="Did you mean 'flow'"):
        simple("flo", DDPM(), x, x, t, x)
    with pytest.raises(SpecError, match="VP has no steps"):
        hybrid("noise", VP(), x, x, t, x, x)
    with pytest.raises(SpecError, match=r"t=500\.0"):
        simple("velocity", DDPM(), x, x, jnp.array([500.0]), x)
    with pytest.raises(SpecError, match="Did you mean 'hybrid'"):
        check_loss("hybird", learns_variance=True)
    with pytest.raises(SpecError, match="does not learn the variance"):
        check_loss("hybrid", learns_variance=False)
    with pytest.raises(SpecError, match="leaves it untrained"):
        check_loss("simple", learns_variance=True)
    check_loss("simple", learns_variance=False)
    check_loss("hybrid", learns_variance=True)
