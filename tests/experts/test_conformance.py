"""Laws of every expert bank: products with `materialise`, counted parameters and FLOPs, initialisation, dropout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.contracts import Experts, enter, leave
from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.core.spec import build_method, examples
from moejax.core.tree import leaf_names
from moejax.experts.mlp import MlpExperts
from moejax.experts.multilinear import MultilinearExperts
from moejax.experts.swiglu import SwigluExperts
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.linear.contract import is_leaf
from moejax.linear.epilogue import ACTIVATIONS
from moejax.linear.expert_axis import shared_fields
from moejax.linear.low_rank import LowRank
from tests.first_examples import quick_first
from tests.linear.flat_products import count_product_flops

E, D, F = 3, 5, 6
BANKS = {f"{name}-{i}": spec for i, (name, spec) in enumerate(examples("experts"))}


def expert(spec, x, w):
    """One row x [D] through the expert of weights w, by the definition: a memory, a gated or a plain hidden layer."""
    if "query" in w:
        return product_key_memory(spec, x, w)
    if "gate" in w:
        return (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"]
    return ACTIVATIONS[spec.activation](x @ w["up"] + w["up_bias"]) @ w["down"] + w["down_bias"]


def product_key_memory(spec, x, w):
    """Scores of all n^2 experts; the best of every head."""
    heads = (x @ w["query"]).reshape(spec.num_heads, spec.query_dim)
    if spec.normalise_query:
        heads = (heads - heads.mean(-1, keepdims=True)) / jnp.sqrt(heads.var(-1, keepdims=True) + 1e-6)
    halves = heads.reshape(spec.num_heads, 2, -1)
    scores = [halves[:, i] @ w[f"keys_{i + 1}"] for i in (0, 1)]
    every = (scores[0][:, :, None] + scores[1][:, None, :]).reshape(spec.num_heads, -1)
    best, index = jax.lax.top_k(every, spec.num_selected_experts)
    gate = jax.nn.softmax(best) if spec.scores == "softmax" else jax.nn.sigmoid(best)
    hidden = ACTIVATIONS[spec.activation](w["u"][index] @ x)
    return jnp.einsum("HK,HKD->D", gate * hidden, w["v"][index])


def through(bank, params, layout):
    """Rows into the bank, through it and out of it."""
    entered = dataclasses.replace(layout, tokens=enter(bank, params, layout.tokens))
    out = bank.apply(params, entered)
    assert type(out) is type(layout)
    return dataclasses.replace(out, tokens=leave(bank, params, out.tokens))


def unit_params(bank):
    draw = np.random.default_rng(0)
    params = jax.eval_shape(lambda: bank.init(jax.random.key(0), E, D))
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), params)


def ranks_in_turn(bank):
    """The ranks that the experts take in turn; () for a bank whose experts are alike."""
    rank = getattr(bank, "rank", None)
    return rank if isinstance(rank, tuple) and not isinstance(bank, MultilinearExperts) else ()


def nodes(params):
    return jax.tree.leaves(params, is_leaf=is_leaf)


def own_arrays(params):
    """Arrays that carry the expert axis."""
    found = []
    for node in nodes(params):
        shared = [id(a) for name in shared_fields(node) for a in jax.tree.leaves(getattr(node, name))]
        found += [array for array in jax.tree.leaves(node) if id(array) not in shared]
    return found


@pytest.mark.parametrize("name", quick_first(BANKS))
def test_apply_equals_the_product_with_materialise(name):
    bank = BANKS[name]
    params = unit_params(bank)
    weights = bank.materialise(params)
    assert all(value.shape[0] == E for value in weights.values())
    x = jnp.asarray(np.random.default_rng(1).normal(size=(12, D)), jnp.float32)

    def one(row, owner):
        return expert(bank, row, {key: value[owner] for key, value in weights.items()})

    def every(x, owners):
        return jax.jit(jax.vmap(one))(x, owners)

    apply = jax.jit(functools.partial(through, bank))
    buffers = apply(params, Buffers(x.reshape(E, 4, D)))
    owners = jnp.repeat(jnp.arange(E), 4)
    np.testing.assert_allclose(buffers.tokens.reshape(12, D), every(x, owners), rtol=2e-4, atol=2e-4)

    x = x.at[10:].set(0)  # rows after the last group hold zeros
    ragged = apply(params, Ragged(x, jnp.array([7, 0, 3])))
    owners = jnp.array([0] * 7 + [2] * 3)
    np.testing.assert_allclose(ragged.tokens[:10], every(x[:10], owners), rtol=2e-4, atol=2e-4)
    assert not np.any(ragged.tokens[10:])


@pytest.mark.parametrize("name", BANKS)
def test_formulas_equal_what_is_counted(name):
    bank = BANKS[name]
    assert isinstance(bank, Experts)
    params = unit_params(bank)
    counted = sum(node.num_params() if hasattr(node, "num_params") else jnp.size(node) for node in nodes_of(params))
    assert bank.num_params(E, D) == counted
    assert all(leaf.shape[0] == E for leaf in own_arrays(params))

    rows = 64
    if ranks_in_turn(bank):  # buffers compute as wide as the largest rank
        bank = dataclasses.replace(bank, rank=max(bank.rank))
    once = sum(leaf.flops_once() for leaf in nodes(params) if hasattr(leaf, "flops_once"))
    assert product_flops(bank, params, rows) == E * (rows * bank.flops_per_token(D) + once)


def nodes_of(params):
    """Arrays, and leaves whole where they count for themselves."""
    return jax.tree.leaves(params, is_leaf=lambda node: hasattr(node, "num_params"))


def product_flops(bank, params, rows):
    """Of all experts with `rows` rows each. Low-rank kernels one by one: together they run in loops over blocks."""
    if any(isinstance(node, LowRank) for node in nodes(params)):
        calls = [
            (leaf.grouped_matmul, (Buffers(jnp.zeros((E, rows, leaf.u.shape[-2]))),))
            for leaf in nodes(params)
            if isinstance(leaf, LowRank)
        ]
    else:
        width = enter(bank, params, jnp.zeros((1, D))).shape[-1]
        calls = [(bank.apply, (params, Buffers(jnp.zeros((E, rows, width)))))]
    return sum(count_product_flops(jax.make_jaxpr(call)(*args).jaxpr) for call, args in calls)


@pytest.mark.parametrize("name", quick_first(BANKS))
def test_initialisation(name):
    bank = BANKS[name]
    for equal in (False, True):
        if equal and len(set(ranks_in_turn(bank))) > 1:
            with pytest.raises(SpecError, match="cannot start as copies"):
                dataclasses.replace(bank, equal_init=True)
            continue
        params = jax.jit(dataclasses.replace(bank, equal_init=equal).init, static_argnums=(1, 2))(
            jax.random.key(3), E, D
        )
        for leaf in own_arrays(params):
            assert np.array_equal(leaf[0], leaf[1]) == equal


@pytest.mark.slow
@pytest.mark.parametrize("name", BANKS)
def test_the_dense_layer_has_no_expert_axis(name):
    bank = BANKS[name]
    if ranks_in_turn(bank):
        bank = dataclasses.replace(bank, rank=2)
    layer = FeedForward(experts=bank)
    params = jax.jit(layer.init, static_argnums=1)(jax.random.key(0), D)
    whole = jax.jit(bank.init, static_argnums=(1, 2))(jax.random.key(0), 1, D)
    assert leaf_names(params) == leaf_names(whole)
    sizes = [(a.size, a.ndim) for a in jax.tree.leaves(params)]
    shared = {id(a) for a in jax.tree.leaves(whole)} - {id(a) for a in own_arrays(whole)}
    assert sizes == [(a.size, a.ndim if id(a) in shared else a.ndim - 1) for a in jax.tree.leaves(whole)]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, D)), jnp.float32)
    want = jax.jit(functools.partial(through, bank))(whole, Buffers(x.reshape(1, 6, D))).tokens.reshape(x.shape)
    np.testing.assert_allclose(jax.jit(layer.apply)(params, x), want, rtol=1e-5, atol=1e-6)


def test_names_of_dense_layers_stay():
    names = leaf_names(jax.eval_shape(lambda: FeedForward(experts=MlpExperts(expert_dim=F)).init(jax.random.key(0), D)))
    assert names == ["down/kernel", "down_bias", "up/kernel", "up_bias"]
    names = leaf_names(
        jax.eval_shape(lambda: FeedForward(experts=SwigluExperts(expert_dim=F)).init(jax.random.key(0), D))
    )
    assert names == ["down/kernel", "gate/kernel", "up/kernel"]


def one_of_each():
    """The first example of each bank; as slow tests but for those that differ most in how they meet a dispatch."""
    first = {name.rsplit("-", 1)[0]: name for name in reversed(BANKS)}
    quick = ("latent", "low_rank")
    return [pytest.param(name, marks=[] if bank in quick else [pytest.mark.slow]) for bank, name in first.items()]


@pytest.mark.parametrize("name", one_of_each())
def test_any_router_and_dispatch(name):
    """Output and gradients do not depend on how tokens move; merged experts are the mean of what is materialised."""
    bank, x = BANKS[name], jnp.asarray(np.random.default_rng(2).normal(size=(2, 4, D)), jnp.float32)
    params = unit_params(bank)

    def gradients(router, dispatch, params, x):
        layer = MoE(router=router, experts=bank, dispatch=dispatch)
        routing, state = layer.router.init(jax.random.key(0), D)

        def loss(params, x):
            out = layer.apply({"router": routing, "experts": params}, state, x).tokens
            return jnp.sum(jnp.sin(out)), out

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    for router, strategies in (
        ({"name": "top_k", "num_experts": E, "num_selected_experts": 2}, ("ragged", "gather")),
        ({"name": "merge", "num_experts": E}, ("merge", "reference")),
    ):
        calls = (functools.partial(gradients, build_method("routing", router), d) for d in strategies)
        fast = {"xla_backend_optimization_level": 0}  # small programs, run once each
        first, second = (jax.jit(call, compiler_options=fast)(params, x) for call in calls)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), first, second)


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


@pytest.mark.parametrize("name", quick_first(BANKS))
def test_bfloat16_stays(name):
    bank = BANKS[name]
    params = unit_params(bank)
    x = jnp.ones((E, 2, D), jnp.bfloat16)
    for layout in (Buffers(x), Ragged(x.reshape(-1, D), jnp.array([2, 2, 2]))):
        assert jax.eval_shape(functools.partial(through, bank), params, layout).tokens.dtype == jnp.bfloat16


def test_bad_fields():
    with pytest.raises(SpecError, match="expert_dim=0 must be at least 1"):
        MlpExperts(expert_dim=0)
    with pytest.raises(SpecError, match="expert_dim=-1 must be at least 1"):
        SwigluExperts(expert_dim=-1)
    with pytest.raises(SpecError, match="dropout_rate=1.0 must be in"):
        MlpExperts(expert_dim=1, dropout_rate=1.0)
    with pytest.raises(SpecError, match="activation='gleu' is not allowed. Did you mean 'gelu'"):
        build_method("experts", {"name": "mlp", "expert_dim": 4, "activation": "gleu"})
