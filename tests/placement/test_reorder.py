"""A reordered model computes the same, layer by layer and as a whole, and its experts lie where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method, build_spec, examples
from moejax.experts.mlp import MlpExperts
from moejax.layers.moe import MoE
from moejax.models.vit import VisionTransformer
from moejax.placement.affinity import order_of
from moejax.placement.reorder import reorder_blocks, reorder_layer, replicated_first

ORDER = [2, 0, 3, 1]


def drawn(shape):
    return jax.random.normal(jax.random.key(2), shape)


ROUTERS = [
    {"name": "top_k", "num_selected_experts": 2, "bias_update_rate": 0.1, "noise_std": 0.0, "capacity_factor": 1.0},
    {"name": "noisy_top_k"},
    {"name": "hash", "table_size": 16},
    {"name": "soft", "num_slots": 2},
    {"name": "expert_choice", "capacity_factor": 1.0},
]


@pytest.mark.parametrize(
    "fields", [ROUTERS[0], *(pytest.param(fields, marks=pytest.mark.slow) for fields in ROUTERS[1:])]
)
def test_a_layer_computes_the_same(fields):
    moe = MoE(router=build_method("routing", {"num_experts": 4} | fields), experts=MlpExperts(expert_dim=6))
    params, state = moe.init(jax.random.key(0), 8)
    params["router"] = jax.tree.map(
        lambda leaf: leaf + drawn(leaf.shape), params["router"]
    )  # some kernels start at zero
    state = jax.tree.map(lambda leaf: leaf + jnp.arange(4.0) / 10 if leaf.dtype == jnp.float32 else leaf, state)
    x = jax.random.normal(jax.random.key(1), (2, 7, 8))
    moved, moved_state = reorder_layer(params, state, ORDER)
    apply = jax.jit(lambda params, state: moe.apply(params, state, x))
    before, after = apply(params, state), apply(moved, moved_state)
    np.testing.assert_allclose(after.tokens, before.tokens, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after.metrics["load"], np.asarray(before.metrics["load"])[ORDER], rtol=1e-6)
    np.testing.assert_array_equal(moved["experts"]["up_bias"], params["experts"]["up_bias"][np.array(ORDER)])


@pytest.mark.parametrize("name, gate", examples("routing.gates"))
def test_the_scores_of_every_gate_go_with_their_experts(name, gate):
    router = jax.tree.map(lambda leaf: leaf + drawn(leaf.shape), gate.init(jax.random.key(0), 8, 4))
    x = jax.random.normal(jax.random.key(1), (1, 3, 8))
    moved = reorder_layer({"router": router, "experts": {}}, {}, ORDER)[0]["router"]
    wanted = np.asarray(gate.logits(router, x))[..., np.array(ORDER)]
    np.testing.assert_allclose(gate.logits(moved, x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_model_computes_the_same():
    moe = {"router": {"name": "top_k", "num_experts": 4, "noise_std": 0.0}, "experts": {"name": "mlp", "expert_dim": 6}}
    model = build_spec(
        VisionTransformer,
        {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 3, "num_heads": 2, "mlp_dim": 8, "num_classes": 3}
        | {"moe": moe, "moe_layers": "final2"},
    )
    params, state = model.init(jax.random.key(0))
    params["head"] = jax.tree.map(lambda leaf: leaf + drawn(leaf.shape), params["head"])  # it starts at zero
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    orders = {1: order_of(np.array([1, 0, 1, 0])), 2: ORDER}
    blocks, block_state = reorder_blocks(params["blocks"], state["blocks"], orders)
    apply = jax.jit(lambda params, state: model.apply(params, state, images))
    before, after = apply(params, state), apply(params | {"blocks": blocks}, {"blocks": block_state})
    np.testing.assert_allclose(after.logits, before.logits, rtol=1e-5, atol=1e-6)
    assert np.abs(before.logits).max() > 0.01
    for layer, order in orders.items():
        name = f"block_{layer:02d}/load"
        np.testing.assert_allclose(after.metrics[name], np.asarray(before.metrics[name])[order], rtol=1e-6)


def test_by_load():
    assert replicated_first([1, 5, 0, 5]) == [1, 3, 0, 2]


def test_what_cannot_be_reordered():
    moe = MoE(
        router=build_method("routing", {"name": "bi_level", "num_experts": 4, "num_nodes": 2}),
        experts=MlpExperts(expert_dim=6),
    )
    params, state = moe.init(jax.random.key(0), 8)
    with pytest.raises(SpecError, match="belong to their nodes"):
        reorder_layer(params, state, ORDER)
    with pytest.raises(SpecError, match="no permutation"):
        reorder_layer(params, state, [0, 0, 1, 2])
    with pytest.raises(SpecError, match="layer 0 has no experts"):
        reorder_blocks({"00": {"feed_forward": {}}}, {"00": {}}, {0: ORDER})
    with pytest.raises(SpecError, match="router leaf 'gamma' is unknown"):
        reorder_layer({"router": {"gamma": jnp.ones(4)}, "experts": {}}, {}, ORDER)
