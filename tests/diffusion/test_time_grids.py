import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP
from moejax.diffusion.time_grids import GRIDS, alpha_sigma, times

FLOW = RectifiedFlow(max_time=0.999)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("to_data", [True, False])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("process", [DDPM(), DDPM(schedule="cosine"), VP(), FLOW], ids=str)
def test_times_fall_from_the_last_to_the_end(process, num_steps, to_data, grid):
    if grid == "respaced" and not isinstance(process, DDPM):
        with pytest.raises(SpecError, match="discrete chain"):
            times(process, grid, num_steps, to_data)
        return
    found = np.asarray(times(process, grid, num_steps, to_data))
    assert found.shape == (num_steps + 1,)
    assert found[0] == pytest.approx(process.max_time)
    assert (np.diff(found) < 0).all()
    assert found[-1] == 0.0 if to_data else found[-1] == pytest.approx(process.min_time)
    asked = found[:-1]
    assert asked.min() >= process.min_time * (1 - 1e-5)
    assert (found == found.astype(np.float32)).all()


def test_uniform_and_quadratic_by_hand():
    process = RectifiedFlow(min_time=0.04, max_time=0.64)
    np.testing.assert_allclose(times(process, "uniform", 4), [0.64, 0.48, 0.32, 0.16, 0.0], atol=1e-7)
    np.testing.assert_allclose(times(process, "uniform", 3, False), [0.64, 0.44, 0.24, 0.04], atol=1e-7)
    np.testing.assert_allclose(times(process, "quadratic", 4), [0.64, 0.36, 0.16, 0.04, 0.0], atol=1e-7)


@pytest.mark.parametrize("process", [VP(), DDPM(), FLOW], ids=str)
def test_log_snr_is_even(process):
    alpha, sigma = alpha_sigma(process, times(process, "log_snr", 12, False))
    steps = np.diff(np.log(alpha / sigma))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)


def test_karras_by_its_formula():
    process = VP()
    alpha, sigma = alpha_sigma(process, times(process, "karras", 6))
    ratio = (sigma / alpha)[:-1]
    share = np.arange(6) / 5
    expected = (ratio[0] ** (1 / 7) + share * (ratio[-1] ** (1 / 7) - ratio[0] ** (1 / 7))) ** 7
    np.testing.assert_allclose(ratio, expected, rtol=1e-3)


def test_respaced_steps_of_the_chain():
    """4 of 10 ... a chain of 100: steps 99, 66, 33, 0."""
    np.testing.assert_allclose(times(DDPM(num_steps=100), "respaced", 4), [1.0, 0.67, 0.34, 0.01, 0.0], atol=1e-7)
    whole = times(DDPM(num_steps=100), "respaced", 100)
    np.testing.assert_allclose(whole, np.arange(100, -1, -1) / 100, atol=1e-7)


def test_coefficients_are_known_inside_a_compiled_function():
    @jax.jit
    def run(x):
        alpha, sigma = alpha_sigma(VP(), times(VP(), "log_snr", 3))
        assert isinstance(alpha, np.ndarray) and alpha[-1] == 1.0 and sigma[-1] == 0.0
        return x * jnp.float32(alpha[0])

    assert float(run(jnp.float32(1.0))) == pytest.approx(float(VP().alpha(jnp.float32(1.0))))


@pytest.mark.parametrize("grid", ["log_snr", "karras"])
def test_pure_noise_at_the_end_has_no_log(grid):
    with pytest.raises(SpecError, match="max_time=0.999"):
        times(RectifiedFlow(), grid, 5)


def test_too_many_steps():
    with pytest.raises(SpecError, match="Use fewer steps"):
        times(FLOW, "uniform", 2000)
    with pytest.raises(SpecError, match="process.num_steps=100"):
        times(DDPM(num_steps=100), "respaced", 101)


def test_auto_is_even_in_time_for_straight_paths_only():
    assert times(FLOW, "auto", 4) == times(FLOW, "uniform", 4)
    for process in (DDPM(), VP()):
        assert times(process, "auto", 4) == times(process, "quadratic", 4)
    assert jax.jit(lambda: jnp.asarray(times(FLOW, "auto", 4)))().shape == (5,)
