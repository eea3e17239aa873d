"""What every process must satisfy, over the examples of all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method, examples
from moejax.diffusion.contract import Process

EXAMPLES = examples("diffusion.processes")
processes = pytest.mark.parametrize("process", [spec for _, spec in EXAMPLES], ids=lambda spec: str(spec))


def grid(process, size=201):
    return jnp.linspace(process.min_time, process.max_time, size, dtype=jnp.float32)


def test_all_three_are_there():
    assert {name for name, _ in EXAMPLES} >= {"ddpm", "vp", "rectified_flow"}


@processes
def test_it_is_a_process(process):
    assert isinstance(process, Process)
    assert 0.0 < process.min_time < process.max_time <= 1.0


@processes
def test_it_starts_at_the_data(process):
    zero = jnp.float32(0.0)
    assert float(process.alpha(zero)) == 1.0
    assert float(process.sigma(zero)) == 0.0


@processes
def test_it_ends_near_noise(process):
    last = jnp.float32(process.max_time)
    assert float(process.alpha(last)) < 0.06
    assert float(process.sigma(last)) > 0.99


@processes
def test_the_signal_to_noise_ratio_falls(process):
    t = grid(process)
    with np.errstate(divide="ignore"):
        log_snr = np.log(np.asarray(process.alpha(t), np.float64)) - np.log(np.asarray(process.sigma(t), np.float64))
    assert (np.diff(log_snr) < 0).all()


@processes
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_shapes_and_dtypes(process, shape):
    for dtype in (jnp.float32, jnp.bfloat16):
        t = jnp.full(shape, 0.5, dtype)
        for value in (process.alpha(t), process.sigma(t), process.model_time(t)):
            assert value.shape == shape and value.dtype == jnp.float32


@processes
def test_gradients_are_finite(process):
    for function in (process.alpha, process.sigma, process.model_time):
        gradient = jax.vmap(jax.grad(function))(grid(process))
        assert np.isfinite(gradient).all()
    assert (np.asarray(jax.vmap(jax.grad(process.sigma))(grid(process)[:-1])) >= 0).all()


@processes
def test_the_gradient_of_alpha_is_its_slope(process):
    for t in (0.2503, 0.6004):
        middle, step = jnp.float32(t), jnp.float32(1e-4)
        slope = (process.alpha(middle + step) - process.alpha(middle - step)) / (2.0 * step)
        # between two steps of a chain alpha is smooth; at 1e-4 about them the differences are rounded to about 1e-3
        np.testing.assert_allclose(jax.grad(process.alpha)(middle), slope, atol=6e-3, rtol=6e-3)


@processes
def test_times_are_drawn_in_range_and_by_the_key(process):
    times = process.sample_time(jax.random.key(0), (4096,))
    assert times.dtype == jnp.float32
    # a chain's first step is 1 / num_steps rounded to float32
    assert np.float32(process.min_time) <= times.min() and times.max() <= process.max_time
    np.testing.assert_array_equal(times, process.sample_time(jax.random.key(0), (4096,)))
    assert (np.asarray(times) != np.asarray(process.sample_time(jax.random.key(1), (4096,)))).mean() > 0.9
    assert float(times.std()) > 0.1
    assert process.sample_time(jax.random.key(0), (2, 3)).shape == (2, 3)


@processes
def test_the_network_is_told_0_to_about_1000(process):
    told = process.model_time(grid(process))
    assert -1e-3 <= float(told.min()) < 2.0
    assert 90.0 < float(told.max()) <= 1000.0
    assert (np.diff(told) > 0).all()


@processes
def test_it_compiles(process):
    t = grid(process, 5)
    np.testing.assert_allclose(jax.jit(process.alpha)(t), process.alpha(t), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jax.jit(process.sigma)(t), process.sigma(t), rtol=1e-5)


@processes
@pytest.mark.parametrize("wrong", [-0.1, 1.5, 999.0, float("nan")])
def test_known_times_outside_the_range_are_named(process, wrong):
    for function in (process.alpha, process.sigma):
        with pytest.raises(SpecError, match=rf"t={wrong}.*\[0, 1\]"):
            function(jnp.array([0.5, wrong], jnp.float32))


@processes
def test_rounding_past_the_end_is_no_mistake(process):
    beyond = jnp.float32(1.0) + jnp.float32(1e-6)
    assert np.isfinite(process.alpha(beyond)) and np.isfinite(process.sigma(beyond))


def test_the_folder_is_the_registry():
    assert build_method("diffusion.processes", {"name": "ddpm", "schedule": "cosine"}) == dict(EXAMPLES)[
        "ddpm"
    ].__class__(schedule="cosine")
    with pytest.raises(SpecError, match="Did you mean 'rectified_flow'"):
        build_method("diffusion.processes", {"name": "rectified_flows"})
