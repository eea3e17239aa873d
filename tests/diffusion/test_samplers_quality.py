"""Few evaluations are enough: the fast samplers reach the quality of 250 ancestral steps on mixtures in 2-D and 64-D.

Quality is the sliced 1-Wasserstein distance of samples to exact ones, means over seeds, with the same exact samples and
the same initial noise for all samplers. Two exact sets differ as well; the spread of that floor over seeds is the
precision of the comparison, and two of its standard deviations are granted. Run with -s for the figures.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.diffusion.samplers.ancestral import Ancestral
from moejax.diffusion.samplers.ddim import DDIM
from moejax.diffusion.samplers.dpm_solver_pp import DPMSolverPP
from moejax.diffusion.samplers.heun import Heun
from tests.diffusion.sampling_problems import plane_mixture, sliced_distance, wide_mixture

COUNT, SEEDS = 8192, 4
MIXTURES = {"2-D": plane_mixture, "64-D": wide_mixture}


def distances(process, mixture, sampler, exact):
    run = jax.jit(lambda x, key: sampler.sample(process, mixture.denoiser(process), x, key=key).x)
    found = []
    for seed in range(SEEDS):
        noise = jax.random.normal(jax.random.key(seed), exact[seed].shape, jnp.float32)
        found.append(sliced_distance(run(noise, jax.random.key(50 + seed)), exact[seed]))
    return np.asarray(found)


@pytest.mark.slow
@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("process, grid", [(DDPM(), "quadratic"), (RectifiedFlow(), "uniform")], ids=["ddpm", "flow"])
def test_few_evaluations_reach_250_ancestral_steps(process, grid, mixture):
    problem = MIXTURES[mixture]()
    exact = [problem.sample(jax.random.key(100 + i), COUNT) for i in range(2 * SEEDS)]
    floor = np.asarray([sliced_distance(exact[i], exact[i + SEEDS]) for i in range(SEEDS)])
    reference = distances(process, problem, Ancestral(num_steps=250), exact)
    print(
        f"\n{mixture} {type(process).__name__}: floor {floor.mean():.4f} +- {floor.std(ddof=1):.4f}, ancestral 250 {reference.mean():.4f}"
    )
    fast = {
        50: DDIM(num_steps=50, grid=grid),
        25: Heun(num_steps=13, grid=grid),
        20: DPMSolverPP(num_steps=20, grid=grid),
    }
    reached = {}
    for evaluations, sampler in fast.items():
        assert sampler.evaluations == evaluations
        found = distances(process, problem, sampler, exact)
        print(f"  {type(sampler).__name__} {sampler.grid} {evaluations}: {found.mean():.4f}")
        reached[evaluations] = found.mean() <= reference.mean() + 2 * floor.std(ddof=1)
    few = distances(process, problem, DDIM(num_steps=8, grid=grid), exact)
    print(f"  DDIM {grid} 8: {few.mean():.4f}")
    assert few.mean() > reference.mean() + 2 * floor.std(ddof=1)  # the comparison can tell a bad sampler
    assert all(reached.values()), reached
