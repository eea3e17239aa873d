"""The four predictions, by hand and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import examples
from moejax.diffusion.predictions import PREDICTIONS, check_prediction, denoised, noised, target
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP

processes = pytest.mark.parametrize("process", [spec for _, spec in examples("diffusion.processes")], ids=str)


def batch(process, shape=(6, 2, 3, 1)):
    keys = jax.random.split(jax.random.key(0), 3)
    x0, noise = (jax.random.normal(key, shape) for key in keys[:2])
    t = jnp.linspace(0.05, 0.9, shape[0], dtype=jnp.float32)
    return x0, noise, t, noised(process, x0, noise, t)


def test_by_hand():
    # t = 0.25 on the straight line from 2 to -4: x = 0.75 * 2 + 0.25 * -4 = 0.5
    process, t = RectifiedFlow(), jnp.array([0.25], jnp.float32)
    x0, noise = jnp.array([[2.0]]), jnp.array([[-4.0]])
    assert float(noised(process, x0, noise, t)[0, 0]) == 0.5
    assert float(target("noise", process, x0, noise, t)[0, 0]) == -4.0
    assert float(target("x0", process, x0, noise, t)[0, 0]) == 2.0
    assert float(target("flow", process, x0, noise, t)[0, 0]) == -6.0
    assert float(target("velocity", process, x0, noise, t)[0, 0]) == 0.75 * -4.0 - 0.25 * 2.0


@processes
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_target_gives_data_and_noise_back(process, kind):
    x0, noise, t, x = batch(process)
    estimate = denoised(kind, process, x, t, target(kind, process, x0, noise, t))
    alpha = np.asarray(process.alpha(t)).min()
    np.testing.assert_allclose(estimate.x0, x0, atol=3e-6 / alpha)
    np.testing.assert_allclose(estimate.noise, noise, atol=2e-5)
    assert estimate.variance is None


@processes
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_any_output_adds_up_to_x(process, kind):
    _, _, t, x = batch(process)
    output = jax.random.normal(jax.random.key(9), x.shape)
    estimate = denoised(kind, process, x, t, output)
    np.testing.assert_allclose(noised(process, estimate.x0, estimate.noise, t), x, atol=2e-5)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_scalar_time_is_that_of_all(kind):
    process = VP()
    x0, noise, _, _ = batch(process)
    one, all_times = jnp.float32(0.4), jnp.full((6,), 0.4, jnp.float32)
    x = noised(process, x0, noise, one)
    np.testing.assert_array_equal(x, noised(process, x0, noise, all_times))
    few = denoised(kind, process, x, one, target(kind, process, x0, noise, one))
    many = denoised(kind, process, x, all_times, target(kind, process, x0, noise, all_times))
    np.testing.assert_array_equal(few.x0, many.x0)


def test_flow_is_the_derivative_on_the_straight_line():
    process = RectifiedFlow()
    x0, noise, t, _ = batch(process)
    _, slope = jax.jvp(lambda t: noised(process, x0, noise, t), (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(target("flow", process, x0, noise, t), slope, atol=1e-5)


def test_velocity_is_the_derivative_by_the_angle():
    # alpha = cos(angle), sigma = sin(angle): velocity = dx / dangle
    process = DDPM()
    x0, noise, t, _ = batch(process)
    angle = jnp.arctan2(process.sigma(t), process.alpha(t))[:, None, None, None]
    _, slope = jax.jvp(lambda a: jnp.cos(a) * x0 + jnp.sin(a) * noise, (angle,), (jnp.ones_like(angle),))
    np.testing.assert_allclose(target("velocity", process, x0, noise, t), slope, atol=1e-5)


def test_estimates_are_float32():
    process = DDPM()
    x0, noise, t, x = batch(process)
    low = noise.astype(jnp.bfloat16)
    estimate = denoised("noise", process, x.astype(jnp.bfloat16), t, low, low)
    assert {estimate.x0.dtype, estimate.noise.dtype, estimate.variance.dtype} == {jnp.dtype("float32")}
    assert target("velocity", process, x0.astype(jnp.bfloat16), low, t).dtype == jnp.float32


def test_at_the_end_of_a_straight_line_all_but_noise_work():
    process, t = RectifiedFlow(), jnp.ones((6,), jnp.float32)
    x0, noise, _, _ = batch(process)
    x = noised(process, x0, noise, t)
    for kind in ("x0", "velocity", "flow"):
        np.testing.assert_allclose(denoised(kind, process, x, t, target(kind, process, x0, noise, t)).x0, x0, atol=1e-6)
    with pytest.raises(SpecError, match=r"RectifiedFlow has alpha\(max_time=1.0\) = 0"):
        check_prediction("noise", process)
    check_prediction("noise", RectifiedFlow(max_time=0.999))
    for process in (DDPM(), DDPM(schedule="cosine"), VP(), VP(schedule="cosine")):
        for kind in PREDICTIONS:
            check_prediction(kind, process)


def test_unknown_names():
    process = DDPM()
    x0, noise, t, x = batch(process)
    for call in (
        lambda: target("velocty", process, x0, noise, t),
        lambda: denoised("velocty", process, x, t, x),
        lambda: check_prediction("velocty", process),
    ):
        with pytest.raises(SpecError, match=r"'velocty' is unknown. Did you mean 'velocity'\? Allowed: flow, noise"):
            call()
