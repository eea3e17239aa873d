"""Densities by scipy, samples by their moments, Fisher information by its flat directions; Newton finds the maximum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from moejax.core.errors import SpecError
from moejax.routing.gates.temperature import Temperature
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.lattice import Lattice
from moejax.theory.newton import by_autodiff, maximise

PARAMS = {
    "gate": {"kernel": np.array([[2.0, 0.5, 0.0]]), "bias": np.array([0.3, -0.4, 0.0])},
    "weight": np.array([1.0, -1.0, 2.0]),
    "bias": np.array([2.0, -2.0, 0.0]),
    "log_variance": np.log([0.25, 0.36, 0.16]),
}
X, Y = np.array([-0.7, 0.2, 0.9]), np.array([1.0, -2.0, 2.5])


def by_hand(scores):
    gates = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    mean, spread = X[:, None] * PARAMS["weight"] + PARAMS["bias"], np.exp(PARAMS["log_variance"] / 2)
    return np.log(np.sum(gates * norm.pdf(Y[:, None], mean, spread), axis=1))


def log_density(model):
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, PARAMS)
        return np.asarray(model.log_density(params, jnp.asarray(X), jnp.asarray(Y)))


def test_density_of_dense_and_sparse_gates():
    products = X[:, None] * PARAMS["gate"]["kernel"]
    scores = products + PARAMS["gate"]["bias"]
    np.testing.assert_allclose(log_density(GaussianMoE()), by_hand(scores), rtol=1e-13)
    for select, ranked in (("logit", scores), ("inner", products)):
        worst = ranked == ranked.min(axis=1, keepdims=True)
        found = log_density(GaussianMoE(num_selected_experts=2, select=select))
        np.testing.assert_allclose(found, by_hand(np.where(worst, -np.inf, scores)), rtol=1e-13)


def test_samples_have_the_moments_of_the_density():
    x = np.repeat(X, 200_000)
    y = GaussianMoE().sample(PARAMS, x, np.random.default_rng(0)).reshape(3, -1)
    scores = X[:, None] * PARAMS["gate"]["kernel"] + PARAMS["gate"]["bias"]
    gates = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    mean = X[:, None] * PARAMS["weight"] + PARAMS["bias"]
    np.testing.assert_allclose(y.mean(axis=1), (gates * mean).sum(axis=1), atol=0.02)
    np.testing.assert_allclose(
        (y**2).mean(axis=1), (gates * (mean**2 + np.exp(PARAMS["log_variance"]))).sum(axis=1), rtol=0.01
    )


def test_the_lattice_is_exact_and_says_when_it_is_not():
    lattice, model = Lattice(), GaussianMoE()
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, PARAMS)
        log_p = np.asarray(model.log_density(params, jnp.asarray(lattice.x), jnp.asarray(lattice.y)))
    found = lattice.probabilities(log_p)
    assert abs(found.sum() - 1) < 1e-14 and len(found) == 24 * 81
    assert np.abs(np.exp(log_p).reshape(24, -1).sum(axis=1) * lattice.step - 1).max() < 1e-12
    counts = lattice.counts(found, 10**10, np.random.default_rng(0))
    assert counts.sum() == 10**10
    with pytest.raises(SpecError, match="misses .* widen responses"):
        lattice.probabilities(log_p - 1)
    with pytest.raises(SpecError, match=r"lattice.step=0.2 is too coarse for a variance of 0.01"):
        lattice.check(0.01)


def test_fisher_information_has_the_flat_directions_of_translation_and_of_a_free_temperature():
    lattice = Lattice()

    def eigenvalues(model, params):
        with jax.enable_x64(True):
            arrays = jax.tree.map(jnp.asarray, params)
            log_p = np.asarray(model.log_density(arrays, jnp.asarray(lattice.x), jnp.asarray(lattice.y)))
        return np.linalg.eigvalsh(model.fisher_information(params, lattice.x, lattice.y, lattice.probabilities(log_p)))

    softmax = eigenvalues(GaussianMoE(), PARAMS)
    assert np.all(np.abs(softmax[:2]) < 1e-13) and softmax[2] > 1e-5  # translations of bias and kernel alone
    heated = PARAMS | {"gate": PARAMS["gate"] | {"log_temperature": np.array(np.log(0.8))}}
    linear = eigenvalues(GaussianMoE(gate=Temperature(activation="identity")), heated)
    assert np.all(np.abs(linear[:3]) < 1e-13) and linear[3] > 1e-5  # one more: all of them times one number
    tanh = eigenvalues(GaussianMoE(gate=Temperature(activation="tanh")), heated)
    assert abs(tanh[0]) < 1e-13 and tanh[1] > 1e-7  # the bias's translation alone


def test_newton_climbs_to_the_maximum_of_many_problems_at_once():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        centres = jnp.asarray(rng.normal(size=(5, 3)))

        def fit(centre):
            def value(p):
                return -jnp.sum(jnp.log(jnp.cosh(p - centre))) - 0.1 * jnp.sum((p - centre) ** 4)

            return maximise(by_autodiff(value), jnp.zeros(3) + 5.0, iterations=40)

        found = jax.jit(jax.vmap(fit))(centres)
    np.testing.assert_allclose(np.asarray(found.params), np.asarray(centres), atol=1e-7)
    assert np.all(np.asarray(found.slope) < 1e-7) and np.all(np.asarray(found.curvature) > 0.9)


def test_pinned_parameters_stay():
    with jax.enable_x64(True):
        fit = maximise(
            by_autodiff(lambda p: -jnp.sum((p - 1.0) ** 2) - p[0] * p[1]), jnp.array([3.0, 0.5]), iterations=20,
            free=jnp.array([True, False]),
        )  # fmt: skip
    np.testing.assert_allclose(fit.params, [0.75, 0.5], atol=1e-8)  # -2 (p - 1) - 0.5 = 0


def test_what_cannot_be():
    with pytest.raises(SpecError, match="num_selected_experts=0 must be at least 1"):
        GaussianMoE(num_selected_experts=0)
    with pytest.raises(SpecError, match="select='inner' needs the gate 'linear', not Temperature"):
        GaussianMoE(gate=Temperature(), select="inner")
    with pytest.raises(SpecError, match="num_inputs=1"):
        Lattice(num_inputs=1)
