"""Assigned and nearest noise: the optimum, and what they do to the distribution of the noise."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.spatial
import scipy.stats

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.diffusion.noise_assignment import NoiseAssignment, assign, independent_noise, nearest_noise


def pictures(num, shape=(4, 4, 1), seed=0):
    return 0.5 * jax.random.normal(jax.random.key(seed), (num, *shape))


def distances(x, y):
    x, y = (np.asarray(a, np.float64).reshape(len(a), -1) for a in (x, y))
    return scipy.spatial.distance.cdist(x, y)


@pytest.mark.parametrize("size", [4, 32, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_assigned_noise_is_the_optimum(size, squared, half):
    x = pictures(size, seed=size)
    noise = independent_noise(jax.random.key(1), x)
    assigned = jax.jit(lambda x, n: assign(x, n, squared=squared, half=half))(x, noise)
    cost = distances(x, noise) ** (2 if squared else 1)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    found = (np.diag(distances(x, assigned)) ** (2 if squared else 1)).sum()
    assert found == pytest.approx(cost[rows, columns].sum(), rel=3e-5 if half else 1e-6)
    assert found < np.diag(cost).sum()
    # the same noises in another order, not one bit changed
    flat = np.asarray(noise).reshape(size, -1)
    np.testing.assert_array_equal(np.sort(flat, axis=0), np.sort(np.asarray(assigned).reshape(size, -1), axis=0))


def test_it_runs_inside_a_compiled_training_loss():
    x = pictures(16)

    @jax.jit
    def loss(scale, x, key):
        noise = NoiseAssignment(method="linear").draw(key, x)
        return jnp.mean((scale * x - noise) ** 2)

    value, gradient = jax.value_and_grad(loss)(jnp.float32(0.1), x, jax.random.key(0))
    assert np.isfinite(value) and np.isfinite(gradient)
    independent = NoiseAssignment().draw(jax.random.key(0), x)
    assigned = NoiseAssignment(method="linear").draw(jax.random.key(0), x)
    assert distances(x, assigned).trace() < distances(x, independent).trace()


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_it_lowers_for_every_device_without_the_host(method):
    spec = NoiseAssignment(method=method)
    exported = jax.export.export(jax.jit(lambda x: spec.draw(jax.random.key(0), x)), platforms=("cpu", "cuda", "tpu"))
    program = exported(jnp.zeros((8, 4, 4, 1))).mlir_module()
    assert "while" in program and "callback" not in program


@pytest.mark.parametrize("method", ["independent", "linear"])
def test_the_noise_of_training_stays_standard_normal(method):
    spec = NoiseAssignment(method=method)
    draw = jax.jit(lambda key: spec.draw(key, 2.0 + pictures(16, (2, 2, 1))))
    noise = np.concatenate([np.asarray(draw(key)) for key in jax.random.split(jax.random.key(0), 500)]).reshape(-1, 4)
    error = 1 / np.sqrt(len(noise))
    assert np.abs(noise.mean(0)).max() < 4 * error
    assert np.abs(np.cov(noise.T) - np.eye(4)).max() < 4 * np.sqrt(2) * error
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3


def test_one_draw_is_standard_diffusion():
    x, key = pictures(8), jax.random.key(3)
    np.testing.assert_array_equal(nearest_noise(key, x, 1), independent_noise(key, x))
    one = NoiseAssignment(method="nearest", num_draws=1)
    np.testing.assert_array_equal(one.draw(key, x), NoiseAssignment().draw(key, x))


def test_it_is_the_nearest_of_its_draws():
    x, key = pictures(8), jax.random.key(3)
    draws = [independent_noise(key, x)]
    draws += [jax.random.normal(k, x.shape) for k in jax.random.split(key, 6)[1:]]
    apart = np.stack([((np.asarray(d - x, np.float64)) ** 2).sum((1, 2, 3)) for d in draws])
    expected = np.stack(draws)[apart.argmin(0), np.arange(8)]
    np.testing.assert_array_equal(nearest_noise(key, x, 6), expected)
    assert len(set(apart.argmin(0))) > 1
    np.testing.assert_array_equal(nearest_noise(key, x, 6, half=True).shape, x.shape)


def drift(num_draws, num=20000):
    """Mean variance and greatest mean of the nearest noise of pictures of 16 entries, and the mean distance."""
    x = pictures(num)
    noise = np.asarray(nearest_noise(jax.random.key(9), x, num_draws), np.float64).reshape(num, -1)
    distance = np.linalg.norm(noise - np.asarray(x, np.float64).reshape(num, -1), axis=1).mean()
    return noise.var(0).mean(), np.abs(noise.mean(0)).max(), distance


@pytest.mark.slow
def test_the_moments_drift_with_the_number_of_draws():
    variances, means, apart = zip(*(drift(k) for k in (1, 2, 4, 16)), strict=True)
    print("variance, greatest mean, distance by draws 1, 2, 4, 16:", variances, means, apart)
    assert variances[0] == pytest.approx(1.0, abs=0.01)
    assert all(a > b for a, b in zip(variances, variances[1:], strict=False))  # shorter noises are nearer
    assert all(a > b for a, b in zip(apart, apart[1:], strict=False))
    assert max(means) < 5 / np.sqrt(20000)  # symmetric data pull the mean nowhere


def test_specs():
    assert build_spec(NoiseAssignment, {"method": "nearest", "num_draws": 8}).num_draws == 8
    with pytest.raises(SpecError, match="Did you mean 'nearest'"):
        NoiseAssignment(method="nearst")
    with pytest.raises(SpecError, match="num_draws=0 must be at least 1"):
        NoiseAssignment(method="nearest", num_draws=0)
