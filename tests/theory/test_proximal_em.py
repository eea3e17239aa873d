"""Penalised mixtures: steps go down and end where nothing is left to gain, divergences beside known ones, zeros that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.proximal_em import ProximalEM, divergence, log_density, penalised


def mixture(dim, gate, first, second):
    kernel = np.zeros((dim, 2))
    kernel[:, 0], kernel[:, 1] = first, second
    gates = {"kernel": np.stack([gate, np.zeros(dim)], axis=1), "bias": np.zeros(2)}
    params = {"gate": gates, "kernel": kernel, "bias": np.zeros(2), "log_variance": np.zeros(2)}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


TRUE = mixture(4, [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, -2.0, 0, 0])


def data(number, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((number, 4))
    expert = (draw.random(number) > 1 / (1 + np.exp(-x[:, 0]))).astype(int)
    y = np.where(expert == 0, 2, -2) * x[:, 1] + draw.standard_normal(number)
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def test_more_iterations_never_end_higher_and_zeros_are_exact():
    x, y = data(400)
    penalty = jnp.float32(0.05)
    values, found = [], None
    for iterations in (1, 5, 25, 125):
        found, _ = jax.jit(ProximalEM(iterations=iterations).fit)(TRUE, x, y, penalty)
        values.append(float(jax.jit(penalised)(found, x, y, penalty)))
    assert values == sorted(values, reverse=True)
    kernel = np.asarray(found["kernel"])
    assert np.all(kernel[[2, 3]] == 0) and 1.5 < kernel[1, 0] < 2 and -2 < kernel[1, 1] < -1.5
    assert np.all(np.asarray(found["gate"]["kernel"])[:, 1] == 0)


def test_the_end_is_stationary():
    x, y = data(400)
    penalty = jnp.float32(0.05)
    found, far = jax.jit(ProximalEM(iterations=800).fit)(TRUE, x, y, penalty)
    slope = jax.jit(jax.grad(lambda p: -jnp.mean(log_density(p, x, y))))(found)
    kernel, gradient = np.asarray(found["kernel"]), np.asarray(slope["kernel"])
    assert float(far) < 1e-5
    np.testing.assert_allclose(gradient[kernel != 0], -0.05 * np.sign(kernel[kernel != 0]), atol=2e-4)
    assert np.all(np.abs(gradient[kernel == 0]) <= 0.05 + 2e-4)
    np.testing.assert_allclose(slope["log_variance"], 0, atol=2e-4)


def test_a_large_penalty_leaves_nothing():
    x, y = data(100)
    found, _ = jax.jit(ProximalEM(iterations=400).fit)(TRUE, x, y, jnp.float32(10.0))
    assert not np.any(np.asarray(found["kernel"])) and not np.any(np.asarray(found["gate"]["kernel"]))


def test_divergences_of_equal_experts_are_those_of_normals():
    # Both experts are alike, so that the gate does not count: KL(N(0, 1) | N(0.5 x, 2)) is written out.
    one = mixture(4, [1.0, 0, 0, 0], np.zeros(4), np.zeros(4))
    other = mixture(4, [0.3, 0, 0, 0], [0.5, 0, 0, 0], [0.5, 0, 0, 0])
    other["log_variance"] = jnp.log(jnp.full(2, 2.0))
    x = data(50)[0]
    expected = np.mean(0.5 * (np.log(2) + (1 + (0.5 * np.asarray(x)[:, 0]) ** 2) / 2 - 1))
    assert float(jax.jit(divergence)(one, other, x)) == pytest.approx(expected, rel=1e-4)
    assert float(jax.jit(divergence)(TRUE, TRUE, x)) == pytest.approx(0, abs=1e-6)


def test_variances_do_not_fall_below_the_smallest():
    x, y = data(3)
    found, _ = jax.jit(ProximalEM(iterations=50).fit)(TRUE, x, y, jnp.float32(1e-4))
    assert np.all(np.asarray(found["log_variance"]) >= np.log(0.25) - 1e-6)


def test_misuse_is_refused():
    with pytest.raises(SpecError, match="num_experts=1"):
        ProximalEM(num_experts=1)
    with pytest.raises(SpecError, match="smallest_variance=0"):
        ProximalEM(smallest_variance=0.0)
