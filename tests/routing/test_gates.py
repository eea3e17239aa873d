"""Scores of every gate by hand, in float32 and float64, and their gradients where tokens and experts meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from moejax.core.errors import SpecError
from moejax.core.spec import build_method, examples

KERNEL = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, -1.0]])  # two entries of a token, three experts
TOKENS = np.array([[2.0, 1.0], [-1.0, 0.5]])
BIAS = np.array([0.1, -0.2, 0.3])


def scores(config, **params):
    gate = build_method("routing.gates", config)
    arrays = {name: jnp.asarray(value, jnp.float32) for name, value in ({"kernel": KERNEL} | params).items()}
    return np.asarray(gate.logits(arrays, jnp.asarray(TOKENS, jnp.float32)))


def test_linear():
    np.testing.assert_allclose(scores("linear"), [[2, -3, 0], [-1, 2.5, -1]])
    np.testing.assert_allclose(
        scores({"name": "linear", "bias": True}, bias=BIAS), [[2.1, -3.2, 0.3], [-0.9, 2.3, -0.7]], rtol=1e-6
    )


def test_temperature():
    products = TOKENS @ KERNEL
    for name, function in (("tanh", np.tanh), ("relu", lambda s: np.maximum(s, 0)), ("identity", lambda s: s)):
        found = scores({"name": "temperature", "activation": name}, bias=BIAS, log_temperature=np.log(0.5))
        np.testing.assert_allclose(found, 2 * (function(products) + BIAS), rtol=1e-5, atol=1e-6)
    once = scores({"name": "temperature", "activation": "identity"}, bias=BIAS, log_temperature=0.0)
    thrice = scores(
        {"name": "temperature", "activation": "identity"}, kernel=3 * KERNEL, bias=3 * BIAS, log_temperature=np.log(3)
    )
    np.testing.assert_allclose(thrice, once, rtol=1e-5, atol=1e-6)  # what tanh forbids
    once = scores({"name": "temperature"}, bias=BIAS, log_temperature=0.0)
    thrice = scores({"name": "temperature"}, kernel=3 * KERNEL, bias=3 * BIAS, log_temperature=np.log(3))
    assert np.abs(once - thrice).max() > 0.1


def test_cosine():
    norms = np.linalg.norm(TOKENS, axis=1)[:, None] * np.linalg.norm(KERNEL, axis=0)
    np.testing.assert_allclose(scores("cosine", log_temperature=np.log(0.1)), 10 * (TOKENS @ KERNEL) / norms, rtol=1e-5)
    perturbed = (np.linalg.norm(TOKENS, axis=1)[:, None] + 0.5) * (np.linalg.norm(KERNEL, axis=0) + 0.5)
    found = scores({"name": "cosine", "perturbation": 0.5}, log_temperature=0.0)
    np.testing.assert_allclose(found, (TOKENS @ KERNEL) / perturbed, rtol=1e-5)


def test_laplace():
    distances = np.linalg.norm(TOKENS[:, :, None] - KERNEL[None], axis=1)
    np.testing.assert_allclose(scores({"name": "laplace", "bias": False}), -distances, rtol=1e-6)
    np.testing.assert_allclose(scores("laplace", bias=BIAS), BIAS - distances, rtol=1e-6)


def test_gaussian():
    spread = np.array([[0.5, 1.0, 2.0], [1.0, 0.7, 0.3]])
    found = scores("gaussian", bias=BIAS, log_scale=np.log(spread))
    wanted = [multivariate_normal(KERNEL[:, e], np.diag(spread[:, e] ** 2)).logpdf(TOKENS) + BIAS[e] for e in range(3)]
    np.testing.assert_allclose(found, np.transpose(wanted), rtol=1e-5)


@pytest.mark.parametrize(("name", "gate"), examples("routing.gates"))
def test_every_gate(name, gate):
    params = gate.init(jax.random.key(0), 5, 3)
    x = jax.random.normal(jax.random.key(1), (2, 4, 5))
    found = gate.logits(params, x)
    assert found.shape == (2, 4, 3) and found.dtype == jnp.float32
    assert gate.logits(params, x.astype(jnp.bfloat16)).dtype == jnp.float32
    # A token that lies on an expert, and one that is zero: no gradient is infinite.
    x = x.at[0, 0].set(params["kernel"][:, 0]).at[0, 1].set(0.0)
    for gradient in jax.tree.leaves(
        jax.jit(jax.grad(lambda p, x: jnp.sum(gate.logits(p, x) ** 2), argnums=(0, 1)))(params, x)
    ):
        assert bool(jnp.all(jnp.isfinite(gradient))) and bool(jnp.any(gradient != 0))
    with jax.enable_x64(True):
        wide = gate.logits(
            jax.tree.map(lambda p: jnp.asarray(np.asarray(p), jnp.float64), params),
            jnp.asarray(np.asarray(x), jnp.float64),
        )
        assert wide.dtype == jnp.float64
        np.testing.assert_allclose(np.asarray(wide), np.asarray(gate.logits(params, x)), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "temperature", "temperature": 0.0}, "gate.temperature=0.0 must be above 0"),
        ({"name": "cosine", "perturbation": -1.0}, "gate.perturbation=-1.0 not negative"),
        ({"name": "gaussian", "scale": -1.0}, "gate.scale=-1.0 must be above 0"),
        ({"name": "temperature", "activation": "tahn"}, "tanh"),
    ],
)
def test_what_cannot_be(config, message):
    with pytest.raises(SpecError, match=message):
        build_method("routing.gates", config)
