"""The Linen module computes what the functional layer computes, and behaves as Flax users expect."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization, traverse_util

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.flax.linen import MoE, total_loss
from moejax.layers.moe import MoE as Layer

EXPERTS = {"name": "mlp", "expert_dim": 6}
TOP_K = {
    "name": "top_k",
    "num_experts": 3,
    "num_selected_experts": 2,
    "importance_loss_weight": 0.1,
    "z_loss_weight": 0.1,
}
BIASED = {"name": "top_k", "num_experts": 3, "bias_update_rate": 0.5, "noise_std": 0.0}
X = jax.random.normal(jax.random.key(1), (2, 4, 8))


@pytest.mark.parametrize(
    "fields",
    [
        {"router": TOP_K, "experts": EXPERTS},
        {"router": TOP_K, "experts": EXPERTS, "dispatch": "einsum", "group_size": 2, "shared": EXPERTS},
        {"router": {"name": "soft", "num_experts": 3}, "experts": {"name": "swiglu", "expert_dim": 6}},
        {"router": {"name": "expert_choice", "num_experts": 3}, "experts": EXPERTS},
    ],
    ids=["top_k", "grouped_shared", "soft", "expert_choice"],
)
def test_equals_the_functional_layer(fields):
    layer, module = build_spec(Layer, fields), MoE(**fields)
    variables = jax.jit(module.init)(jax.random.key(0), X)
    assert set(variables) == {"params"}
    names = traverse_util.flatten_dict(variables["params"], sep="/")
    assert all(isinstance(leaf, jax.Array) for leaf in names.values())
    shapes, state = jax.eval_shape(lambda key: layer.init(key, 8), jax.random.key(0))
    params = serialization.from_state_dict(shapes, dict(variables["params"]))
    expected = jax.jit(layer.apply)(params, state, X)
    apply = jax.jit(lambda variables, x: module.apply(variables, x, mutable=["losses", "metrics", "intermediates"]))
    found, updates = apply(variables, X)
    np.testing.assert_allclose(found, expected.tokens, rtol=1e-6, atol=1e-6)
    assert set(updates["metrics"]) == set(expected.metrics)
    np.testing.assert_allclose(total_loss(updates.get("losses", {})), sum(expected.losses.values(), 0.0), rtol=1e-6)
    assert type(updates["intermediates"]["plan"][0]) is layer.router.plan_type
    if fields.get("group_size") is None:  # groups are sequences, so that a sequence alone is routed as in its batch
        np.testing.assert_allclose(apply(variables, X[0])[0], found[0], rtol=1e-6, atol=1e-6)


def test_a_key_means_training():
    module = MoE(router=TOP_K | {"noise_std": 30.0}, experts=EXPERTS)
    variables = jax.jit(module.init)(jax.random.key(0), X)
    apply = jax.jit(module.apply, static_argnames="deterministic")
    rngs = [{"dropout": jax.random.key(i)} for i in (1, 1, 2)]
    evaluated, *trained = apply(variables, X), *(apply(variables, X, rngs=r) for r in rngs)
    np.testing.assert_array_equal(trained[0], trained[1])
    assert not np.array_equal(trained[0], trained[2])
    assert not np.array_equal(trained[0], evaluated)
    np.testing.assert_array_equal(apply(variables, X, rngs=rngs[0], deterministic=True), evaluated)


def test_router_state_lives_in_its_own_collection():
    module = MoE(router=BIASED, experts=EXPERTS)
    variables = jax.jit(module.init)({"params": jax.random.key(0), "dropout": jax.random.key(1)}, X)
    np.testing.assert_array_equal(variables["moe_state"]["router"]["bias"], np.zeros(3))
    _, updates = module.apply(variables, X, rngs={"dropout": jax.random.key(1)}, mutable=["moe_state", "metrics"])
    # Every training call moves the bias by 0.5 x sign(1/3 - load): up for experts below the mean load, down above.
    step = 0.5 * np.sign(1 / 3 - np.asarray(updates["metrics"]["load"]))
    np.testing.assert_allclose(updates["moe_state"]["router"]["bias"], step, atol=1e-6)
    _, updates = module.apply(variables, X, mutable=["moe_state"])
    np.testing.assert_array_equal(updates["moe_state"]["router"]["bias"], np.zeros(3))


class Stack(nn.Module):
    """A model as Flax users write them: layers scanned over depth, each with an MoE."""

    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + MoE(router=TOP_K | BIASED, experts=EXPERTS)(nn.LayerNorm()(x)), None

        collections = {"params": 0, "moe_state": 0, "losses": 0, "metrics": 0}
        scanned = nn.scan(Block, variable_axes=collections, split_rngs={"params": True, "dropout": True}, length=2)
        return scanned()(x, None)[0]


@pytest.mark.slow
def test_jit_grad_scan_and_optax():
    model = Stack()
    variables = jax.jit(model.init)(jax.random.key(0), X)
    params, state = variables["params"], variables["moe_state"]
    optimizer = optax.adamw(1e-2)

    @jax.jit
    def step(params, state, opt_state, key):
        def loss(params):
            y, updates = model.apply(
                {"params": params, "moe_state": state},
                X,
                rngs={"dropout": key},
                mutable=["losses", "metrics", "moe_state"],
            )
            return jnp.mean(y**2) + total_loss(updates["losses"]), updates

        (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(params)
        change, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, change), updates, opt_state, value, grads

    opt_state, values = optimizer.init(params), []
    for i in range(8):
        params, updates, opt_state, value, grads = step(params, state, opt_state, jax.random.key(i))
        state = updates["moe_state"]
        values.append(float(value))
    assert values[-1] < values[0]
    (moe,) = [child["MoE_0"] for child in grads.values()]
    assert all(float(jnp.abs(leaf[i]).max()) > 0 for leaf in jax.tree.leaves(moe) for i in range(2))
    (losses,) = [child["MoE_0"] for child in updates["losses"].values()]
    assert losses["importance"].shape == (2,)
    assert jax.tree.leaves(state)[0].shape == (2, 3)


def test_the_computation_follows_dtype():
    module = MoE(router=TOP_K, experts=EXPERTS, dtype=jnp.bfloat16)
    variables = jax.jit(module.init)(jax.random.key(0), X)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert module.apply(variables, X).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"router": TOP_K | {"name": "topk"}, "experts": EXPERTS}, "top_k"),
        ({"router": TOP_K, "experts": {"name": "mlp", "expert_dims": 6}}, "expert_dim"),
        ({"router": TOP_K, "experts": EXPERTS, "dispatch": "ragge"}, "ragged"),
    ],
)
def test_misspelt_names_say_what_was_meant(fields, words):
    with pytest.raises(SpecError, match=words):
        MoE(**fields).init(jax.random.key(0), X)
