"""MPO experts: full bonds rebuild any bank; masked calls leave the central tensors without a gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers
from moejax.experts.mlp import MlpExperts
from moejax.experts.mpo import MpoExperts
from moejax.linear.dense import Dense
from moejax.linear.mpo import Mpo, balanced_modes, decompose, from_tensors

E, D, F = 3, 4, 6


def rows(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_by_hand():
    # Two tensors, D = 2 = 2 x 1, F = 2 = 1 x 2, bond 1: kernel[d, f] = central[d] own[e, f].
    # Central (1, 2), own of the experts (1, -1) and (0, 3): x = (1, 1): 3 (1, -1) and 3 (0, 3); relu, times down = 1s.
    up = Mpo(
        (jnp.asarray([[1.0, -1.0], [0.0, 3.0]]).reshape(2, 1, 1, 2, 1),), jnp.asarray([1.0, 2.0]).reshape(1, 2, 1, 1)
    )
    down = Mpo((jnp.ones((2, 1, 1, 1, 1)),), jnp.ones((1, 2, 1, 1)))
    params = {"up": up, "down": down, "up_bias": jnp.zeros((2, 2)), "down_bias": jnp.zeros((2, 1))}
    bank = MpoExperts(expert_dim=2, num_tensors=2, activation="relu")
    np.testing.assert_allclose(bank.apply(params, Buffers(jnp.ones((2, 1, 2)))).tokens[:, 0, 0], [3.0, 9.0])


def test_full_bonds_rebuild_a_dense_expert():
    kernels = {"up": rows(D, F), "down": rows(F, D)}
    leaves = {
        name: from_tensors(decompose(np.asarray(kernel), *(balanced_modes(w, 3) for w in kernel.shape)), num_experts=E)
        for name, kernel in kernels.items()
    }
    biases = {"up_bias": rows(E, F), "down_bias": rows(E, D)}
    bank, dense = MpoExperts(expert_dim=F), MlpExperts(expert_dim=F)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(lambda: bank.init(jax.random.key(0), E, D)))
    assert jax.tree.map(jnp.shape, leaves | biases) == shapes
    wanted = {name: Dense(jnp.broadcast_to(kernel, (E, *kernel.shape))) for name, kernel in kernels.items()}
    x = Buffers(rows(E, 5, D))
    np.testing.assert_allclose(
        bank.apply(leaves | biases, x).tokens, dense.apply(wanted | biases, x).tokens, rtol=1e-4, atol=1e-4
    )


def test_counts_share_the_central_tensor():
    # D = 4 in 3: (1, 4, 1) or so; by the shapes themselves: the middle one once, the others per expert.
    bank = MpoExperts(expert_dim=F, bond_dim=2)
    sizes = {name: [int(np.prod(shape)) for shape in bank.shapes(*size)] for name, size in bank.kernels(D).items()}
    by_hand = sum(E * (first + last) + central for first, central, last in sizes.values()) + E * (F + D)
    assert bank.num_params(E, D) == by_hand
    assert bank.num_params(E + 1, D) - bank.num_params(E, D) == sum(s[0] + s[2] for s in sizes.values()) + F + D


def test_masked_calls_leave_the_central_tensors_alone():
    rate, calls = 0.3, 400
    bank, free = (MpoExperts(expert_dim=F, bond_dim=2, central_mask_rate=r) for r in (rate, 0.0))
    params, x = jax.jit(bank.init, static_argnums=(1, 2))(jax.random.key(0), E, D), Buffers(rows(E, 5, D))

    def loss(bank, params, key):
        return jnp.sum(jnp.sin(bank.apply(params, x, key=key).tokens))

    gradient = jax.jit(jax.vmap(jax.grad(functools.partial(loss, bank)), in_axes=(None, 0)))
    found = gradient(params, jax.random.split(jax.random.key(1), calls))
    want = jax.jit(jax.grad(functools.partial(loss, free)))(params, None)
    masked = ~np.any(np.asarray(found["up"].central).reshape(calls, -1), axis=1)  # exactly zero
    assert abs(masked.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / calls)
    for name in ("up", "down"):
        np.testing.assert_array_equal(np.asarray(found[name].central)[masked], 0.0)
        open_calls = np.asarray(found[name].central)[~masked]
        np.testing.assert_allclose(
            open_calls, np.broadcast_to(want[name].central, open_calls.shape), rtol=1e-4, atol=1e-5
        )
        for own, free_own in zip(found[name].auxiliary, want[name].auxiliary, strict=True):  # never masked
            np.testing.assert_allclose(own, np.broadcast_to(free_own, own.shape), rtol=1e-4, atol=1e-5)
    values = jax.jit(jax.vmap(functools.partial(loss, bank, params)))(jax.random.split(jax.random.key(1), 8))
    np.testing.assert_allclose(values, values[0], rtol=1e-5)  # the mask changes no output
    value, always = jax.jit(jax.value_and_grad(functools.partial(loss, bank)))(params, None)  # no key: no mask
    np.testing.assert_allclose(values, value, rtol=1e-5)
    assert np.any(always["up"].central)


def test_kernels_have_the_variance_of_a_dense_draw():
    bank = MpoExperts(expert_dim=80, bond_dim=12)
    draw = jax.jit(lambda key: bank.materialise(bank.init(key, 8, 60)))
    drawn = [draw(jax.random.key(seed)) for seed in range(8)]
    for name in ("up", "down"):
        np.testing.assert_allclose(np.mean([np.var(weights[name]) for weights in drawn]), 2 / 140, rtol=0.15)


def test_bad_fields():
    with pytest.raises(SpecError, match="num_tensors=1 must be at least 2"):
        MpoExperts(expert_dim=4, num_tensors=1)
    with pytest.raises(SpecError, match="central_mask_rate=2.0 must lie in"):
        MpoExperts(expert_dim=4, central_mask_rate=2.0)
