"""Guidance against NumPy's formulas and singular values, and what it does to a mixture whose scores are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.diffusion.contract import Denoised
from moejax.diffusion.gaussian_mixture import GaussianMixture
from moejax.diffusion.guidance import Guidance, damp_tangent, guided
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP
from moejax.diffusion.samplers.dpm_solver_pp import DPMSolverPP

PROCESS = VP()
T = jnp.asarray([0.2, 0.5, 0.8], jnp.float32)


def estimates(seed, process=PROCESS, t=T, shape=(3, 2, 4)):
    """An x [3 2 4] at times t, and what two denoisers of different data say about it."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x, first, second = (jax.random.normal(k, shape, jnp.float32) for k in keys)
    alpha, sigma = (np.asarray(f(t))[:, None, None] for f in (process.alpha, process.sigma))

    def said(noise):
        return Denoised(x0=(x - sigma * noise) / alpha, noise=noise)

    return x, said(first), said(first + 0.3 * second)


def run(guidance, conditional, unconditional, x, t=T, process=PROCESS):
    return guidance(conditional, unconditional, process, x, t)


def test_by_its_formula():
    x, conditional, unconditional = estimates(0)
    found = run(Guidance(scale=3.0), conditional, unconditional, x)
    c, u = np.asarray(conditional.noise), np.asarray(unconditional.noise)
    np.testing.assert_allclose(found.noise, u + 3.0 * (c - u), rtol=1e-5, atol=1e-6)
    alpha, sigma = (np.asarray(f(T))[:, None, None] for f in (PROCESS.alpha, PROCESS.sigma))
    np.testing.assert_allclose(alpha * found.x0 + sigma * found.noise, x, atol=1e-5)


@pytest.mark.parametrize("tangential", [False, True])
@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_scale_1_is_exactly_the_conditional(schedule, tangential):
    x, conditional, unconditional = estimates(1)
    found = run(Guidance(scale=1.0, schedule=schedule, tangential=tangential), conditional, unconditional, x)
    np.testing.assert_array_equal(found.noise, conditional.noise)
    np.testing.assert_array_equal(found.x0, conditional.x0)


def test_scale_0_is_the_unconditional():
    x, conditional, unconditional = estimates(2)
    np.testing.assert_allclose(
        run(Guidance(scale=0.0), conditional, unconditional, x).noise, unconditional.noise, atol=1e-6
    )


@pytest.mark.parametrize("tangential", [False, True])
def test_equal_estimates_stay(tangential):
    x, conditional, _ = estimates(3)
    found = run(Guidance(scale=7.0, tangential=tangential), conditional, conditional, x)
    np.testing.assert_allclose(found.noise, conditional.noise, atol=1e-5)
    np.testing.assert_allclose(found.x0, conditional.x0, rtol=1e-4, atol=1e-3)


def test_nothing_outside_the_interval():
    x, conditional, unconditional = estimates(4)
    found = run(Guidance(scale=4.0, interval=(0.3, 0.6)), conditional, unconditional, x)
    np.testing.assert_array_equal(found.noise[0], conditional.noise[0])
    np.testing.assert_array_equal(found.noise[2], conditional.noise[2])
    whole = run(Guidance(scale=4.0), conditional, unconditional, x)
    np.testing.assert_array_equal(found.noise[1], whole.noise[1])
    assert not np.allclose(found.noise[1], conditional.noise[1])


def test_weights_by_hand_and_on_average():
    """w - 1 = 2 at scale 3: linear 2 * 2 (1 - t), cosine 2 (1 + cos(pi t)), at t = 0, 1/2, 1."""
    t = jnp.asarray([0.0, 0.5, 1.0], jnp.float32)
    np.testing.assert_allclose(Guidance(scale=3.0).weight(t), [3.0, 3.0, 3.0])
    np.testing.assert_allclose(Guidance(scale=3.0, schedule="linear").weight(t), [5.0, 3.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(Guidance(scale=3.0, schedule="cosine").weight(t), [5.0, 3.0, 1.0], atol=1e-6)
    quarter = jnp.float32(0.25)
    assert float(Guidance(scale=3.0, schedule="linear").weight(quarter)) == pytest.approx(4.0)
    assert float(Guidance(scale=3.0, schedule="cosine").weight(quarter)) == pytest.approx(3.0 + 2**0.5)
    every = jnp.linspace(0.0, 1.0, 1001, dtype=jnp.float32)
    for schedule in ("constant", "linear", "cosine"):
        assert float(Guidance(scale=3.0, schedule=schedule).weight(every).mean()) == pytest.approx(3.0, abs=1e-3)


def test_tangent_damping_is_the_projection_on_the_leading_singular_vector():
    x, conditional, unconditional = estimates(5)
    found = damp_tangent(conditional, unconditional, PROCESS, T)
    alpha, sigma = (np.asarray(f(T))[:, None, None] for f in (PROCESS.alpha, PROCESS.sigma))
    for i in range(3):
        rows = np.stack([np.asarray(e.noise[i], np.float64).ravel() for e in (conditional, unconditional)])
        leading = np.linalg.svd(rows, full_matrices=False)[2][0]
        np.testing.assert_allclose(found.noise[i].ravel(), leading * (leading @ rows[1]), atol=1e-5)
    np.testing.assert_allclose(alpha * found.x0 + sigma * found.noise, x, atol=1e-4)


def test_tangent_damping_at_pure_noise_changes_nothing():
    """Rectified flow at t = 1: both noises are x itself, and nothing divides by alpha = 0."""
    t, x = jnp.ones(2), jnp.asarray([[1.0, -2.0], [0.5, 0.3]])
    conditional = Denoised(x0=jnp.ones((2, 2)), noise=x)
    unconditional = Denoised(x0=jnp.zeros((2, 2)), noise=x)
    found = run(Guidance(scale=3.0, tangential=True), conditional, unconditional, x, t, RectifiedFlow())
    np.testing.assert_allclose(found.x0, 3.0 * np.ones((2, 2)))
    np.testing.assert_allclose(found.noise, x, rtol=1e-5)


def test_the_learned_variance_is_the_conditional_one():
    x, conditional, unconditional = estimates(6)
    found = run(Guidance(scale=2.0), conditional.replace(variance=x), unconditional, x)
    np.testing.assert_array_equal(found.variance, x)


def test_scale_1_never_asks_the_unconditional_denoiser():
    x, conditional, _ = estimates(7)

    def fail(x, t):
        raise AssertionError

    said = guided(lambda x, t: conditional, fail, Guidance(scale=1.0), PROCESS)(x, T)
    np.testing.assert_array_equal(said.x0, conditional.x0)


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"scale": -1.0}, "scale=-1.0"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"interval": [0.2, 1.5]}, "0 <= low < high <= 1"),
        ({"interval": [-0.1, 0.5]}, "0 <= low < high <= 1"),
        ({"interval": [0.6, 0.5]}, "0 <= low < high <= 1"),
        ({"interval": [0.6]}, "must have 2 entries"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
    ],
)
def test_what_cannot_be_built(fields, says):
    with pytest.raises(SpecError, match=says):
        build_spec(Guidance, fields)


def class_mixture():
    """Three classes in 2-D, one component each."""
    means = jnp.asarray([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]], jnp.float32)
    return GaussianMixture(jnp.full(3, 1 / 3, jnp.float32), means, jnp.full(3, 0.3, jnp.float32))


def mode_error(guidance, label=0, count=2000):
    """Distance of the mean of guided samples of a class from its mode, and their standard deviation along the first axis."""
    whole = class_mixture()
    alone = GaussianMixture(jnp.ones(1), whole.means[label][None], whole.stds[label][None])
    denoiser = guided(alone.denoiser(PROCESS), whole.denoiser(PROCESS), guidance, PROCESS)
    noise = jax.random.normal(jax.random.key(0), (count, 2), jnp.float32)
    x = DPMSolverPP(num_steps=40, grid="log_snr").sample(PROCESS, denoiser, noise).x
    gap = np.asarray(x, np.float64).mean(0) - np.asarray(whole.means[label], np.float64)
    return float(np.linalg.norm(gap)), float(np.std(np.asarray(x)[:, 0]))


@pytest.mark.slow
def test_mode_error_with_and_without_tangent_damping():
    """Reported, not judged, but for scale 1, where nothing may change: run with -s to see the table."""
    print("\nscale  plain: mode error, std   tangential: mode error, std   interval (0.1, 0.6): mode error, std")
    rows = {}
    for scale in (1.0, 1.5, 2.0, 4.0, 8.0):
        kinds = ({}, {"tangential": True}, {"interval": (0.1, 0.6)})
        rows[scale] = [mode_error(Guidance(scale=scale, **kind)) for kind in kinds]
        print(f"{scale:5.1f}  " + "   ".join(f"{error:.3f}, {std:.3f}" for error, std in rows[scale]))
    plain, damped, limited = rows[1.0]
    assert plain == damped == limited
    assert plain[0] < 0.03 and plain[1] == pytest.approx(0.3, abs=0.02)
    errors = [rows[scale][0][0] for scale in rows]
    assert errors == sorted(errors)  # guidance moves the class away from the others, the more the stronger
    assert all(rows[scale][2][0] <= rows[scale][0][0] for scale in rows)
