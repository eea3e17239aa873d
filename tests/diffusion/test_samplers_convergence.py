"""The error of each solver falls with the steps at its order: against the exact probability flow of a mixture.

Truth is SciPy's DOP853 at 1e-9 on a NumPy mixture in float64, or a closed form. Steps are in the range where float32
does not yet show. Run with -s for the errors.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.diffusion.gaussian_mixture import GaussianMixture
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP
from moejax.diffusion.samplers.ddim import DDIM
from moejax.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from moejax.diffusion.samplers.euler import Euler
from moejax.diffusion.samplers.heun import Heun
from moejax.diffusion.samplers.pseudo_multistep import PseudoMultistep
from tests.diffusion.sampling_problems import EvenNoise, exact_flow, plane_mixture

WITHIN = 0.3
STEPS = (64, 128, 256)
PROCESSES = {"vp": VP(min_time=0.02), "flow": RectifiedFlow(min_time=0.02, max_time=0.98)}


def start(count=32):
    return np.asarray(jax.random.normal(jax.random.key(1), (count, 2), jnp.float32))


@functools.cache
def truth(name):
    process = PROCESSES[name]
    return exact_flow(plane_mixture(), process, start(), process.max_time, process.min_time)


def order(errors, steps):
    """Least-squares slope of log error over log steps, with its sign turned."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def errors_of(cls, process, mixture, x, exact, steps, **fields):
    errors = []
    for num_steps in steps:
        sampler = cls(num_steps=num_steps, to_data=False, **fields)
        run = jax.jit(lambda x, sampler=sampler: sampler.sample(process, mixture.denoiser(process), x).x)
        gap = np.asarray(run(jnp.asarray(x, jnp.float32)), np.float64) - exact
        errors.append(np.sqrt(np.mean(gap**2)))
    return errors


CASES = [
    ("vp", DDIM, "uniform", 1),
    ("flow", DDIM, "uniform", 1),
    ("vp", Euler, "quadratic", 1),
    ("flow", Euler, "uniform", 1),
    ("vp", Heun, "log_snr", 2),
    ("vp", Heun, "karras", 2),
    ("flow", Heun, "uniform", 2),
    ("vp", DPMSolverPP, "log_snr", 2),
    ("flow", DPMSolverPP, "uniform", 2),
    ("vp", PseudoMultistep, "log_snr", 2),
    ("flow", PseudoMultistep, "uniform", 2),
]
QUICK = {("flow", DDIM), ("flow", Heun), ("vp", DPMSolverPP)}


@pytest.mark.parametrize(
    "name, cls, grid, theory",
    [pytest.param(*case, marks=[] if case[:2] in QUICK else pytest.mark.slow) for case in CASES],
)
def test_order_on_a_mixture(name, cls, grid, theory):
    errors = errors_of(cls, PROCESSES[name], plane_mixture(), start(), truth(name), STEPS, grid=grid)
    measured = order(errors, STEPS)
    print(f"\n{cls.__name__} {grid} {name}: " + " ".join(f"{e:.2e}" for e in errors) + f" order {measured:.2f}")
    assert measured == pytest.approx(theory, abs=WITHIN)


def test_pseudo_multistep_is_of_order_4_where_sigma_changes_evenly():
    """One Gaussian N(m, s^2) on alpha = 1, sigma = 2 t: x - m shrinks like sqrt(s^2 + sigma^2)."""
    process, mean, std = EvenNoise(), 0.4, 1.5
    mixture = GaussianMixture(jnp.ones(1), jnp.full((1, 2), mean), jnp.full(1, std))
    x = 2.5 * start()
    shrink = np.sqrt((std**2 + 0.2**2) / (std**2 + 2.0**2))
    steps = (16, 24, 32)
    exact = mean + (x.astype(np.float64) - mean) * shrink
    errors = errors_of(PseudoMultistep, process, mixture, x, exact, steps)
    measured = order(errors, steps)
    print("\nPseudoMultistep even sigma: " + " ".join(f"{e:.2e}" for e in errors) + f" order {measured:.2f}")
    assert measured == pytest.approx(4, abs=WITHIN)


def test_the_exact_flow_agrees_with_a_closed_form():
    """The reference itself: one Gaussian under VP, x_t - alpha m shrinks like sqrt(alpha^2 s^2 + sigma^2)."""
    process = PROCESSES["vp"]
    mixture = GaussianMixture(jnp.ones(1), jnp.full((1, 2), 0.4), jnp.full(1, 0.7))
    at = jnp.asarray([process.max_time, process.min_time], jnp.float32)
    alpha, sigma = np.asarray(process.alpha(at), np.float64), np.asarray(process.sigma(at), np.float64)
    std = np.float64(np.float32(0.7))
    spread = np.sqrt(alpha**2 * std**2 + sigma**2)
    mean = np.float64(np.float32(0.4))
    expected = alpha[1] * mean + (start().astype(np.float64) - alpha[0] * mean) * spread[1] / spread[0]
    found = exact_flow(mixture, process, start(), process.max_time, process.min_time)
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_higher_order_is_better_at_equal_evaluations():
    """At 64 evaluations on the mixture: both second-order solvers at least five times nearer than DDIM."""
    process, mixture = PROCESSES["vp"], plane_mixture()

    def error(cls, steps):
        return errors_of(cls, process, mixture, start(), truth("vp"), (steps,), grid="log_snr")[0]

    assert 5 * error(Heun, 32) < error(DDIM, 64)
    assert 5 * error(DPMSolverPP, 64) < error(DDIM, 64)
