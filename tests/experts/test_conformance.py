"""Laws of every expert bank: products with `materialise`, counted parameters and FLOPs, initialisation, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.contracts import Experts
from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.core.spec import build_method, examples
from moejax.experts.mlp import MlpExperts
from moejax.experts.swiglu import SwigluExperts
from moejax.linear.epilogue import ACTIVATIONS

E, D, F = 3, 5, 6
BANKS = {f"{name}-{i}": spec for i, (name, spec) in enumerate(examples("experts"))}
FORMULAS = {
    MlpExperts: lambda spec, x, w: (
        ACTIVATIONS[spec.activation](jnp.einsum("D,DF->F", x, w["up"]) + w["up_bias"]) @ w["down"] + w["down_bias"]
    ),
    SwigluExperts: lambda spec, x, w: (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"],
}


def unit_params(bank):
    draw = np.random.default_rng(0)
    params = jax.eval_shape(lambda: bank.init(jax.random.key(0), E, D))
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), params)


@pytest.mark.parametrize("name", BANKS)
def test_apply_equals_the_product_with_materialise(name):
    bank = BANKS[name]
    if type(bank) not in FORMULAS:
        pytest.skip("its own test states the formula")
    params = unit_params(bank)
    weights = bank.materialise(params)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(12, D)), jnp.float32)

    def one(row, expert):
        return FORMULAS[type(bank)](bank, row, {key: value[expert] for key, value in weights.items()})

    def every(x, owners):
        return jax.jit(jax.vmap(one))(x, owners)

    apply = jax.jit(bank.apply)
    buffers = apply(params, Buffers(x.reshape(E, 4, D)))
    assert isinstance(buffers, Buffers)
    owners = jnp.repeat(jnp.arange(E), 4)
    np.testing.assert_allclose(buffers.tokens.reshape(12, D), every(x, owners), rtol=1e-4, atol=1e-4)

    x = x.at[10:].set(0)  # rows after the last group hold zeros
    ragged = apply(params, Ragged(x, jnp.array([7, 0, 3])))
    assert isinstance(ragged, Ragged)
    owners = jnp.array([0] * 7 + [2] * 3)
    np.testing.assert_allclose(ragged.tokens[:10], every(x[:10], owners), rtol=1e-4, atol=1e-4)
    assert not np.any(ragged.tokens[10:])


@pytest.mark.parametrize("name", BANKS)
def test_formulas_equal_what_is_counted(name):
    bank = BANKS[name]
    assert isinstance(bank, Experts)
    params = unit_params(bank)
    assert bank.num_params(E, D) == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert all(leaf.shape[0] == E for leaf in jax.tree.leaves(params))
    assert all(value.shape[0] == E for value in bank.materialise(params).values())

    rows = 64
    one = jax.tree.map(lambda leaf: leaf[:1], params)
    jaxpr = jax.make_jaxpr(bank.apply)(one, Buffers(jnp.zeros((1, rows, D))))
    assert count_product_flops(jaxpr.jaxpr) == rows * bank.flops_per_token(D)


def count_product_flops(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            contracted = equation.params["dimension_numbers"][0][0]
            total += 2 * int(np.prod(out)) * int(np.prod([left[axis] for axis in contracted]))
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += count_product_flops(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize("name", BANKS)
def test_initialisation(name):
    bank = BANKS[name]
    for equal in (False, True):
        params = jax.jit(dataclasses.replace(bank, equal_init=equal).init, static_argnums=(1, 2))(
            jax.random.key(3), E, D
        )
        for leaf in jax.tree.leaves(params):
            assert np.array_equal(leaf[0], leaf[1]) == equal


def test_mlp_initial_scale():
    params = MlpExperts(expert_dim=200).init(jax.random.key(0), 4, 100)
    bound = np.sqrt(6 / (100 + 200))  # xavier-uniform: the fans of one expert, not of the bank
    assert np.abs(params["up"].kernel).max() <= bound
    np.testing.assert_allclose(np.std(params["up"].kernel), bound / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(np.std(params["up_bias"]), 1e-6, rtol=0.1)


@pytest.mark.parametrize("layout", ["buffers", "ragged"])
def test_dropout_is_random_with_a_key_only(layout):
    bank = MlpExperts(expert_dim=F, dropout_rate=0.5)
    params = unit_params(bank)
    x = jnp.ones((E * 8, D))
    x = Buffers(x.reshape(E, 8, D)) if layout == "buffers" else Ragged(x, jnp.array([8, 8, 8]))
    apply = jax.jit(bank.apply)
    without = jax.jit(dataclasses.replace(bank, dropout_rate=0.0).apply)
    np.testing.assert_array_equal(apply(params, x).tokens, without(params, x).tokens)
    first, second, again = (apply(params, x, key=jax.random.key(seed)).tokens for seed in (1, 2, 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, again)
    assert 0.3 < np.mean(np.asarray(first) == 0) < 0.7


@pytest.mark.parametrize("name", BANKS)
def test_bfloat16_stays(name):
    bank = BANKS[name]
    params = unit_params(bank)
    x = jnp.ones((E, 2, D), jnp.bfloat16)
    for layout in (Buffers(x), Ragged(x.reshape(-1, D), jnp.array([2, 2, 2]))):
        assert jax.eval_shape(bank.apply, params, layout).tokens.dtype == jnp.bfloat16


def test_bad_fields():
    with pytest.raises(SpecError, match="expert_dim=0 must be at least 1"):
        MlpExperts(expert_dim=0)
    with pytest.raises(SpecError, match="expert_dim=-1 must be at least 1"):
        SwigluExperts(expert_dim=-1)
    with pytest.raises(SpecError, match="dropout_rate=1.0 must be in"):
        MlpExperts(expert_dim=1, dropout_rate=1.0)
    with pytest.raises(SpecError, match="activation='gleu' is not allowed. Did you mean 'gelu'"):
        build_method("experts", {"name": "mlp", "expert_dim": 4, "activation": "gleu"})
