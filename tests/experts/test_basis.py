"""Basis experts on paper; one basis per expert and no function is any bank of experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers
from moejax.experts.basis import BasisExperts, second_moment
from moejax.experts.mlp import MlpExperts
from moejax.linear.dense import Dense
from moejax.linear.shared_basis import SharedBasis


def test_by_hand():
    # Bases of D = 2, R = 1: (1, 0) and (0, 2). Expert 0 mixes (1, 1): tanh(1, 2) = (0.761594, 0.964028), own (1): up.
    # Expert 1 mixes (2, 0): tanh(2, 0) = (0.964028, 0), own (-1). x = (1, 1): relu(1.725622) * 3; relu(-0.964028) = 0.
    up = SharedBasis(
        jnp.asarray([[[1.0]], [[-1.0]]]),
        jnp.asarray([[1.0, 1.0], [2.0, 0.0]]),
        jnp.asarray([[[1.0], [0.0]], [[0.0], [2.0]]]),
        function="tanh",
    )
    params = {
        "up": up,
        "down": Dense(jnp.asarray([[[3.0, 0.0]], [[3.0, 0.0]]])),
        "up_bias": jnp.zeros((2, 1)),
        "down_bias": jnp.zeros((2, 2)),
    }
    bank = BasisExperts(expert_dim=1, num_bases=2, rank=1, function="tanh", convex=False, activation="relu")
    out = bank.apply(params, Buffers(jnp.ones((2, 1, 2))))
    np.testing.assert_allclose(out.tokens[:, 0, 0], [5.176866, 0.0], rtol=1e-5)


def test_a_basis_per_expert_is_the_dense_bank():
    dense = MlpExperts(expert_dim=6)
    params = dense.init(jax.random.key(0), 3, 5)
    own = jnp.broadcast_to(jnp.eye(6), (3, 6, 6))
    bank = BasisExperts(expert_dim=6, num_bases=3, rank=6, function="identity", convex=False)
    built = params | {"up": SharedBasis(own, jnp.eye(3), params["up"].kernel, function="identity")}
    x = Buffers(jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32))
    np.testing.assert_allclose(bank.apply(built, x).tokens, dense.apply(params, x).tokens, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", ["identity", "silu", "tanh"])
@pytest.mark.parametrize("convex", [True, False])
def test_kernels_have_the_variance_of_a_dense_draw(function, convex):
    bank = BasisExperts(expert_dim=80, num_bases=4, rank=50, function=function, convex=convex)
    weights = jax.jit(lambda: bank.materialise(bank.init(jax.random.key(0), 16, 60)))()
    for name in ("up", "down"):
        np.testing.assert_allclose(np.mean(np.square(weights[name])), 2 / 140, rtol=0.2)


def test_second_moments_by_sampling():
    z = np.random.default_rng(0).normal(size=1_000_000)
    for name, function in {"silu": lambda z: z / (1 + np.exp(-z)), "tanh": np.tanh, "identity": lambda z: z}.items():
        np.testing.assert_allclose(second_moment(name), np.mean(function(z) ** 2), rtol=0.01)


def test_counts():
    # up: 2 bases of 5 * 3, and per expert 2 weights and 3 * 6; down 6 * 5 and biases 6 + 5 per expert. FLOPs: 2 * 3 * 11 + 60.
    bank = BasisExperts(expert_dim=6, num_bases=2, rank=3)
    assert bank.num_params(4, 5) == 30 + 4 * (2 + 18 + 30 + 11)
    assert bank.flops_per_token(5) == 66 + 60


def test_bad_fields():
    with pytest.raises(SpecError, match="num_bases=0 must be at least 1"):
        BasisExperts(expert_dim=4, num_bases=0, rank=1)
