"""Core and residual experts: zero residuals are the dense layer; the core can be frozen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.core.tree import leaf_names
from moejax.experts.mlp import MlpExperts
from moejax.experts.residual import ResidualExperts
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from moejax.linear.residual import Residual
from moejax.train.optimizers import Optimizer

E, D, F = 3, 5, 6


def test_by_hand():
    # Core: up (1, 1), down (1, 1). Expert 0 adds up (0, -3), expert 1 adds down (2, 0) as a product 2 * (1, 0).
    # x = 2 with expert 0: relu(2, 2 - 6) = (2, 0): 2.   With expert 1: (2, 2): 2 * 3 + 2 = 8.
    up = Residual(jnp.asarray([[1.0, 1.0]]), Dense(jnp.asarray([[[0.0, -3.0]], [[0.0, 0.0]]])))
    u = jnp.asarray([[[0.0], [0.0]], [[1.0], [0.0]]])
    down = Residual(jnp.asarray([[1.0], [1.0]]), LowRank(u, jnp.asarray([[[2.0]], [[2.0]]])))
    params = {"up": up, "down": down, "up_bias": jnp.zeros((2, 2)), "down_bias": jnp.zeros((2, 1))}
    out = ResidualExperts(expert_dim=2, activation="relu").apply(
        params, Ragged(jnp.full((2, 1), 2.0), jnp.asarray([1, 1]))
    )
    np.testing.assert_allclose(out.tokens, [[2.0], [8.0]], rtol=1e-6)


@pytest.mark.parametrize("rank", [None, 2])
def test_zero_residuals_are_the_dense_layer(rank):
    bank = ResidualExperts(expert_dim=F, rank=rank, residual_share=0.0)
    params = bank.init(jax.random.key(0), E, D)
    cores = {name: Dense(params[name].core[None]) for name in ("up", "down")}
    biases = {name: params[name][:1] for name in ("up_bias", "down_bias")}
    params |= {name: jnp.broadcast_to(bias, (E, bias.shape[1])) for name, bias in biases.items()}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(E, 4, D)), jnp.float32)
    dense = MlpExperts(expert_dim=F).apply(cores | biases, Buffers(x.reshape(1, -1, D))).tokens.reshape(x.shape)
    np.testing.assert_allclose(bank.apply(params, Buffers(x)).tokens, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [None, 8])
def test_kernels_have_the_variance_of_a_dense_draw(rank):
    bank = ResidualExperts(expert_dim=80, rank=rank, residual_share=0.3)
    params = jax.jit(bank.init, static_argnums=(1, 2))(jax.random.key(0), 8, 60)
    np.testing.assert_allclose(np.var(params["up"].materialise()), 2 / 140, rtol=0.05)
    np.testing.assert_allclose(np.var(params["up"].residual.materialise()), 0.3 * 2 / 140, rtol=0.1)


def test_counts():
    # Kernels of 30: a core each, and residuals of rank 2, 1, 1 in turn with 11 numbers per rank; biases 3 * (6 + 5).
    bank = ResidualExperts(expert_dim=F, rank=(2, 1, 1))
    assert bank.num_params(E, D) == 2 * (30 + 4 * 11) + 33
    assert bank.flops_per_token(D) == 2 * (2 * 30 + 2 * 4 * 11 // 3)
    assert ResidualExperts(expert_dim=F).num_params(E, D) == 2 * 30 * (1 + E) + 33
    assert ResidualExperts(expert_dim=F).flops_per_token(D) == 4 * 30


@pytest.mark.lenient
def test_one_pattern_trains_the_residuals_alone():
    """As Adam on the residuals and biases with the cores as constants; the optimiser keeps nothing for the cores."""
    bank = ResidualExperts(expert_dim=F, rank=2)
    params = bank.init(jax.random.key(0), E, D)
    assert [n for n in leaf_names(params) if n.endswith("/core")] == ["down/core", "up/core"]
    spec = Optimizer(name="adamw", learning_rate=0.1, schedule="constant", weight_decay=0.0, frozen=("/core$",))
    x = Buffers(jnp.asarray(np.random.default_rng(0).normal(size=(E, 4, D)), jnp.float32))

    def loss(params):
        return jnp.sum(jnp.sin(bank.apply(params, x).tokens))

    frozen, transformation = params, spec.build(params, 3)
    state = transformation.init(params)
    assert not any("core" in name for name in leaf_names(state) if not name.endswith("count"))
    apart = {name: leaf.residual if isinstance(leaf, Residual) else leaf for name, leaf in params.items()}
    adam = optax.adam(0.1, b1=spec.b1, b2=spec.b2, eps=spec.eps)
    adam_state = adam.init(apart)

    def whole(apart):
        return {n: Residual(params[n].core, leaf) if n in ("up", "down") else leaf for n, leaf in apart.items()}

    @jax.jit
    def step(frozen, state, apart, adam_state):
        updates, state = transformation.update(jax.grad(loss)(frozen), state, frozen)
        other, adam_state = adam.update(jax.grad(lambda p: loss(whole(p)))(apart), adam_state)
        return optax.apply_updates(frozen, updates), state, optax.apply_updates(apart, other), adam_state

    for _ in range(3):
        frozen, state, apart, adam_state = step(frozen, state, apart, adam_state)
    for name in ("up", "down"):
        np.testing.assert_array_equal(frozen[name].core, params[name].core)
        assert not np.array_equal(frozen[name].residual.u, params[name].residual.u)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), frozen, whole(apart))


def test_bad_fields():
    with pytest.raises(SpecError, match="residual_share=1.5 must lie in"):
        ResidualExperts(expert_dim=4, residual_share=1.5)
    with pytest.raises(SpecError, match="rank=0 must be at least 1"):
        ResidualExperts(expert_dim=4, rank=0)
