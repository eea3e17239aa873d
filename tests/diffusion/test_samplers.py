"""What every sampler must satisfy, over the examples of all of them, and hand-worked single steps of each."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method, examples
from moejax.diffusion.contract import Denoised, Sampler, expand
from moejax.diffusion.gaussian_mixture import GaussianMixture
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.processes.vp import VP
from moejax.diffusion.samplers.ancestral import Ancestral
from moejax.diffusion.samplers.ddim import DDIM
from moejax.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from moejax.diffusion.samplers.euler import Euler
from moejax.diffusion.samplers.heun import Heun
from moejax.diffusion.samplers.pseudo_multistep import PseudoMultistep
from tests.diffusion.sampling_problems import Counted, plane_mixture

EXAMPLES = examples("diffusion.samplers")
samplers = pytest.mark.parametrize("sampler", [spec for _, spec in EXAMPLES], ids=lambda spec: str(spec))
one_of_each = pytest.mark.parametrize(
    "sampler", {type(spec): spec for _, spec in reversed(EXAMPLES)}.values(), ids=lambda spec: str(spec)
)
FLOW = RectifiedFlow(max_time=0.999)
DETERMINISTIC = (DDIM(num_steps=5), Euler(num_steps=5), Heun(num_steps=5), DPMSolverPP(num_steps=5), PseudoMultistep(num_steps=5))  # fmt: skip


def normal(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def stochastic(sampler):
    return isinstance(sampler, Ancestral) or getattr(sampler, "eta", 0.0) > 0


def at(process, t):
    return float(process.alpha(jnp.float32(t))), float(process.sigma(jnp.float32(t)))


def test_all_six_are_there():
    assert {name for name, _ in EXAMPLES} == {"ancestral", "ddim", "euler", "heun", "dpm_solver_pp", "pseudo_multistep"}


@samplers
def test_it_is_a_sampler(sampler):
    assert isinstance(sampler, Sampler)


@pytest.mark.parametrize("name, sampler", EXAMPLES, ids=lambda v: str(v))
def test_it_can_be_said_in_a_config(name, sampler):
    assert build_method("diffusion.samplers", {"name": name, **dataclasses.asdict(sampler)}) == sampler


@samplers
def test_evaluations_are_what_is_really_asked(sampler):
    counted = Counted(plane_mixture().denoiser(FLOW))
    sampled = sampler.sample(FLOW, counted, normal((3, 2)), key=jax.random.key(0))
    jax.block_until_ready(sampled.x)
    jax.effects_barrier()
    assert len(counted.times) == sampler.evaluations
    assert FLOW.min_time * 0.999 <= min(counted.times) and max(counted.times) == pytest.approx(FLOW.max_time)


@samplers
def test_pictures_recorded_and_compiled(sampler):
    mixture = GaussianMixture(jnp.ones(1), jnp.linspace(-1.0, 1.0, 12, dtype=jnp.float32)[None], jnp.full(1, 0.5))
    noise = normal((2, 2, 3, 2))

    @functools.partial(jax.jit, static_argnames="record")
    def run(noise, record):
        return sampler.sample(FLOW, mixture.denoiser(FLOW), noise, key=jax.random.key(2), record=record)

    plain, recorded = run(noise, record=False), run(noise, record=True)
    assert plain.x.shape == noise.shape and plain.x.dtype == jnp.float32
    assert plain.path is None and plain.estimates is None
    assert recorded.path.shape == (sampler.num_steps + 1, *noise.shape)
    assert recorded.estimates.shape == (sampler.num_steps, *noise.shape)
    np.testing.assert_array_equal(recorded.path[0], noise)
    np.testing.assert_allclose(recorded.path[-1], recorded.x, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(recorded.x, plain.x, rtol=1e-5, atol=1e-5)
    for start, t, estimate in zip(recorded.path[:-1], sampler.times(FLOW)[:-1], recorded.estimates, strict=True):
        said = mixture.denoise(FLOW, start, jnp.full(2, t, jnp.float32)).x0
        np.testing.assert_allclose(estimate, said, rtol=1e-4, atol=1e-4)


@one_of_each
def test_half_precision_noise_and_denoiser_give_float32(sampler):
    def half(x, t):
        assert x.dtype == jnp.float32
        said = plane_mixture().denoise(FLOW, x, t)
        return Denoised(x0=said.x0.astype(jnp.bfloat16), noise=said.noise.astype(jnp.bfloat16))

    x = sampler.sample(FLOW, half, normal((3, 2)).astype(jnp.bfloat16), key=jax.random.key(0)).x
    assert x.dtype == jnp.float32 and bool(jnp.isfinite(x).all())


@one_of_each
@pytest.mark.parametrize("process", [DDPM(), VP(schedule="cosine"), RectifiedFlow()], ids=str)
def test_data_at_one_point_are_found_on_every_process(sampler, process):
    point = jnp.asarray([[0.3, -0.8]], jnp.float32)

    def denoise(x, t):
        x0 = jnp.broadcast_to(point, x.shape)
        return Denoised(x0=x0, noise=(x - expand(process.alpha(t), x) * x0) / expand(process.sigma(t), x))

    if isinstance(sampler, PseudoMultistep) and at(process, process.max_time)[0] == 0.0:
        with pytest.raises(SpecError, match="max_time=0.999"):
            sampler.sample(process, denoise, normal((4, 2)))
        return
    x = sampler.sample(process, denoise, normal((4, 2)), key=jax.random.key(0)).x
    np.testing.assert_allclose(x, jnp.broadcast_to(point, x.shape), atol=1e-3)


@samplers
def test_keys(sampler):
    denoiser = plane_mixture().denoiser(FLOW)

    def run(key):
        return sampler.sample(FLOW, denoiser, normal((3, 2)), key=key).x

    if not stochastic(sampler):
        np.testing.assert_array_equal(run(None), run(jax.random.key(0)))
        return
    with pytest.raises(SpecError, match="key=jax.random.key"):
        run(None)
    np.testing.assert_array_equal(run(jax.random.key(0)), run(jax.random.key(0)))
    assert float(jnp.abs(run(jax.random.key(0)) - run(jax.random.key(1))).max()) > 1e-3


# --- single steps, by hand ---


@pytest.mark.parametrize("sampler", DETERMINISTIC[:4], ids=str)
def test_one_step_to_data_is_the_estimate(sampler):
    process, noise = VP(), normal((3, 2))
    one = dataclasses.replace(sampler, num_steps=1)
    said = plane_mixture().denoise(process, noise, jnp.full(3, process.max_time, jnp.float32))
    np.testing.assert_allclose(one.sample(process, plane_mixture().denoiser(process), noise).x, said.x0, atol=2e-5)


def test_one_step_of_each_between_two_times():
    """Rectified flow from t = 0.8 to s = 0.2: alpha 0.2 -> 0.8, sigma 0.8 -> 0.2; a denoiser that is linear in x.

    x = 1, x0 = 0.5 x = 0.5, noise = (1 - 0.2 * 0.5) / 0.8 = 1.125.
    """
    process = RectifiedFlow(min_time=0.2, max_time=0.8)

    def denoise(x, t):
        return Denoised(x0=0.5 * x, noise=(x - expand(1.0 - t, x) * 0.5 * x) / expand(t, x))

    def run(cls, **fields):
        return float(cls(num_steps=1, to_data=False, **fields).sample(process, denoise, jnp.ones((1, 1))).x[0, 0])

    first_order = 0.8 * 0.5 + 0.2 * 1.125
    assert run(DDIM) == pytest.approx(first_order, abs=1e-6)
    assert run(Euler) == pytest.approx(first_order, abs=1e-5)
    assert run(DPMSolverPP) == pytest.approx(first_order, abs=1e-6)
    # Heun: flow 1.125 - 0.5 = 0.625 at the start; at the Euler point x = 0.625, t = 0.2: x0 = 0.3125,
    # noise = (0.625 - 0.8 * 0.3125) / 0.2 = 1.875, flow 1.5625; 1 - 0.6 * (0.625 + 1.5625) / 2.
    assert run(Heun) == pytest.approx(1.0 - 0.6 * 0.5 * (0.625 + 1.5625), abs=1e-6)


def test_second_step_of_dpm_solver_pp():
    """lambda = log(alpha / sigma) at t = 0.8, 0.5, 0.2 is -log 4, 0, log 4: h = log 4 twice, r = 1, D = 1.5 now - 0.5 before.

    x0 = 1 at 0.8 and 3 at 0.5. First: 0.5 / 0.8 x + (0.5 - 0.625 * 0.2) * 1 = 0.625 x + 0.375; second: D = 4,
    0.2 / 0.5 x + (0.8 - 0.4 * 0.5) * 4 = 0.4 x + 2.4.
    """
    process = RectifiedFlow(min_time=0.2, max_time=0.8)

    def denoise(x, t):
        x0 = jnp.where(expand(t, x) > 0.6, jnp.ones_like(x), jnp.full_like(x, 3.0))
        return Denoised(x0=x0, noise=x)

    def run(**fields):
        return (
            DPMSolverPP(num_steps=2, grid="uniform", to_data=False, **fields)
            .sample(process, denoise, jnp.ones((1, 1)))
            .x
        )

    assert float(run()[0, 0]) == pytest.approx(0.4 * 1.0 + 2.4, abs=1e-5)
    assert float(run(lower_order_last=True)[0, 0]) == pytest.approx(0.4 * 1.0 + 0.6 * 3.0, abs=1e-5)


def test_constant_noise_makes_every_solver_a_ddim_step():
    """x_s / alpha_s - x_t / alpha_t = (sigma_s / alpha_s - sigma_t / alpha_t) noise, over any number of steps."""
    process, noise, x = VP(), normal((4, 3), seed=5), normal((4, 3))

    def denoise(x, t):
        return Denoised(x0=(x - expand(process.sigma(t), x) * noise) / expand(process.alpha(t), x), noise=noise)

    (alpha_t, sigma_t), (alpha_s, sigma_s) = at(process, process.max_time), at(process, process.min_time)
    expected = alpha_s / alpha_t * (np.asarray(x, np.float64) - sigma_t * np.asarray(noise, np.float64))
    expected += sigma_s * np.asarray(noise, np.float64)
    for sampler in (DDIM(num_steps=1, to_data=False), PseudoMultistep(num_steps=6, to_data=False)):
        found = sampler.sample(process, denoise, x).x
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-3)


def test_pseudo_multistep_weighs_the_last_four_estimates():
    """EvenNoise-like path alpha = 1: a step adds (sigma_s - sigma_t) times the mixture; the noise is a cubic of t alone.

    Runge-Kutta (here Simpson's rule) and the four-step Adams-Bashforth formula integrate a cubic exactly.
    """
    process = RectifiedFlow(min_time=0.25, max_time=0.75)
    u = lambda t: t / (1.0 - t)  # noqa: E731  sigma / alpha
    cubic = lambda v: 1.0 - 2.0 * v + 0.5 * v**3  # noqa: E731

    def denoise(x, t):
        noise = expand(cubic(u(t)), x) * jnp.ones_like(x)
        return Denoised(x0=x, noise=noise)

    sampler = PseudoMultistep(num_steps=8, to_data=False)
    x = float(sampler.sample(process, denoise, jnp.zeros((1, 1))).x[0, 0])
    grid = np.linspace(0.75, 0.25, 9)
    ahead, total = [cubic(u(t)) for t in grid], 0.0
    for i in range(8):
        if i < 3:
            mixed = (ahead[i] + 4 * cubic(u((grid[i] + grid[i + 1]) / 2)) + ahead[i + 1]) / 6
        else:
            mixed = (55 * ahead[i] - 59 * ahead[i - 1] + 37 * ahead[i - 2] - 9 * ahead[i - 3]) / 24
        total += (u(grid[i + 1]) - u(grid[i])) * mixed
    assert x == pytest.approx(0.75 * total, rel=1e-5)


def test_euler_is_ddim_on_rectified_flow_and_another_solver_elsewhere():
    denoiser = plane_mixture().denoiser(FLOW)
    pair = [cls(num_steps=7).sample(FLOW, denoiser, normal((5, 2))).x for cls in (Euler, DDIM)]
    np.testing.assert_allclose(*pair, atol=2e-5)
    denoiser = plane_mixture().denoiser(VP())
    pair = [cls(num_steps=7).sample(VP(), denoiser, normal((5, 2))).x for cls in (Euler, DDIM)]
    assert float(jnp.abs(pair[0] - pair[1]).max()) > 1e-2


def test_euler_on_a_chain_is_near_euler_in_continuous_time():
    found = [
        Euler(num_steps=50, grid="quadratic").sample(process, plane_mixture().denoiser(process), normal((64, 2))).x
        for process in (DDPM(), VP())
    ]
    np.testing.assert_allclose(*found, atol=0.02)


# --- stochastic samplers ---


@pytest.mark.parametrize("process", [DDPM(), RectifiedFlow()], ids=str)
def test_ddim_with_eta_1_is_the_ancestral_form(process):
    """Same keys, same noise: x_s of both agrees, not only its distribution."""
    denoiser, noise, key = plane_mixture().denoiser(process), normal((6, 2)), jax.random.key(3)
    ddim = DDIM(num_steps=8, eta=1.0).sample(process, denoiser, noise, key=key, record=True)
    ancestral = Ancestral(num_steps=8).sample(process, denoiser, noise, key=key, record=True)
    np.testing.assert_allclose(ddim.path, ancestral.path, atol=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "process, sampler",
    [
        (DDPM(), Ancestral(num_steps=1000)),
        (DDPM(), Ancestral(num_steps=250, variance="large", grid="respaced")),
        (VP(), DDIM(num_steps=400, eta=1.0, grid="log_snr")),
        (RectifiedFlow(), Ancestral(num_steps=400)),
    ],
    ids=str,
)
def test_a_gaussian_keeps_its_mean_and_covariance(process, sampler):
    """Mean 0.5 and std 0.6, within four to five standard errors of 4000 samples and 0.01 for the finite steps."""
    mixture = GaussianMixture(jnp.ones(1), jnp.full((1, 2), 0.5), jnp.full(1, 0.6))
    count = 4000
    x = sampler.sample(process, mixture.denoiser(process), normal((count, 2)), key=jax.random.key(9)).x
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(x.mean(0), 0.5, atol=4 * 0.6 / count**0.5 + 0.01)
    np.testing.assert_allclose(np.cov(x.T), 0.36 * np.eye(2), atol=5 * 0.36 / count**0.5 + 0.01)


def test_learned_variance_moves_between_the_two_bounds():
    process = DDPM()
    plain = plane_mixture().denoiser(process)

    def telling(value):
        return lambda x, t: plain(x, t).replace(variance=jnp.full_like(x, value))

    def run(denoiser, variance):
        sampler = Ancestral(num_steps=6, variance=variance)
        return sampler.sample(process, denoiser, normal((4, 2)), key=jax.random.key(0)).x

    np.testing.assert_allclose(run(telling(-1.0), "learned"), run(plain, "small"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(telling(1.0), "learned"), run(plain, "large"), rtol=1e-5, atol=1e-5)
    with pytest.raises(SpecError, match="learn_variance=True"):
        run(plain, "learned")


# --- bad input ---


@pytest.mark.parametrize(
    "config, says",
    [
        ({"name": "ddim", "num_steps": 0}, "num_steps=0"),
        ({"name": "ddim", "eta": 1.5}, "eta=1.5"),
        ({"name": "ddim", "eta": -0.1}, "eta=-0.1"),
        ({"name": "heun", "grid": "log_snrr"}, "Did you mean 'log_snr'"),
        ({"name": "ancestral", "variance": "fixed"}, "Allowed: large, learned, small"),
        ({"name": "pseudo_multistep", "num_steps": 3}, "at least 4"),
        ({"name": "dpm_solver", "num_steps": 3}, "Did you mean 'dpm_solver_pp'"),
        ({"name": "euler", "steps": 3}, "Did you mean 'num_steps'"),
    ],
)
def test_what_cannot_be_built(config, says):
    with pytest.raises(SpecError, match=says):
        build_method("diffusion.samplers", config)
