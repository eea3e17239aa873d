"""The vision transformer: shapes and heads, errors before anything runs, and routing that remat and scan leave alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.core.segments import unstack
from moejax.core.spec import build_method
from moejax.core.tree import flatten
from moejax.models.vit import VisionTransformer

SMALL = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 3, "num_heads": 2, "mlp_dim": 12, "num_classes": 3}
TOP_K = {"name": "top_k", "num_experts": 3, "num_selected_experts": 2, "capacity_factor": 1.0}


def vit(router: dict | None = None, group_size: int | None = None, **fields) -> VisionTransformer:
    """A small model; with a router its last two blocks are MoE."""
    if router is not None:
        moe = {"router": router, "experts": {"name": "mlp", "expert_dim": 6}, "group_size": group_size}
        fields = {"moe": moe, "moe_layers": "final2"} | fields
    return build_method("models", {"name": "vit"} | SMALL | fields)


def images(batch: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(5), (batch, 8, 8, 3))


@functools.cache
def ready(model: VisionTransformer):
    """Parameters and state without zeros, so that every leaf shows (and without compiling `init`)."""
    rng = np.random.default_rng(0)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, leaf.dtype), params)
    return params, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)


def test_init_gives_each_layer_of_a_segment_its_own_draw() -> None:
    model = vit(dim=4)
    params, _ = jax.jit(model.init)(jax.random.key(0))
    up = params["blocks"]["00-02"]["feed_forward"]["up"].kernel
    assert up.shape == (3, 4, 12) and not np.allclose(up[0], up[1])
    # Layer 1 as its spec alone makes it from its own stream.
    alone, _ = jax.jit(lambda key: model.blocks[1].init(named(key, "block_01"), 4))(jax.random.key(0))
    np.testing.assert_allclose(up[1], alone["feed_forward"]["up"].kernel, rtol=1e-6)


def run(model: VisionTransformer, key=None, **kwargs):
    params, state = ready(model)
    return jax.jit(lambda p, s, x, k: model.apply(p, s, x, key=k, **kwargs))(params, state, images(), key)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"pooling": "cls"}, 5),
        ({"pooling": "avg", "positions": "sincos", "stem": "overlap", "representation_size": 7}, 4),
        ({"pooling": "map", "stem": "conv", "feed_forward": {"name": "swiglu", "expert_dim": 6}}, 4),
    ],
)
def test_heads_stems_and_positions(fields: dict, tokens: int) -> None:
    model = vit(**fields)
    params, _ = ready(model)
    out = run(model)
    assert model.num_tokens == tokens
    assert out.logits.shape == (2, 3) and out.logits.dtype == jnp.float32
    assert out.features.shape == (2, fields.get("representation_size", 8))
    assert np.isfinite(out.logits).all() and not np.allclose(out.logits[0], out.logits[1])
    assert ("positions" in params["embedding"]) == (fields.get("positions") != "sincos")
    assert out.plans == {} and out.losses == {} and out.metrics == {}


def test_a_new_head_says_its_bias_whatever_the_picture() -> None:
    model = vit(head_bias=-1.5)
    apply = jax.jit(lambda key, x: model.apply(*model.init(key), x))
    np.testing.assert_array_equal(apply(jax.random.key(0), images()).logits, np.full((2, 3), -1.5, np.float32))


def test_losses_are_means_over_layers_and_names_say_the_layer() -> None:
    model = vit(TOP_K | {"balance_loss_weight": 0.1, "importance_loss_weight": 0.1})
    out = run(model, return_plans=True)
    assert list(out.plans) == ["block_01", "block_02"]
    assert out.plans["block_01"].expert.shape == (2, 5, 2)
    assert out.metrics["block_02/load"].shape == (3,)
    assert sorted(out.losses) == ["balance", "importance"]
    for layer in ("block_01", "block_02"):
        assert out.plans[layer].capacity == 4  # ceil(1.0 * 5 tokens * 2 choices / 3 experts) = ceil(3.33)
        np.testing.assert_allclose(out.metrics[f"{layer}/load"].sum(), 1.0, rtol=1e-5)


def test_the_models_loss_is_the_mean_of_its_layers_losses() -> None:
    model = vit(TOP_K | {"balance_loss_weight": 0.1})
    params, state = ready(model)
    both = run(model).losses["balance"]

    @jax.jit
    def layer_by_layer(params, state, x):
        x, losses = model.embed(params["embedding"], x), []
        for i, block in enumerate(model.blocks):
            tree = unstack(params["blocks"]["01-02"], 2)[i - 1] if i else params["blocks"]["00"]
            out = block.apply(tree, {}, x)
            x, losses = out.tokens, [*losses, *out.losses.values()]
        return losses

    single = layer_by_layer(params, state, images())
    assert len(single) == 2
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, rtol=1e-5)


VARIANTS = {"unrolled": {"scan": False}, "remat": {"remat": "full"}, "both": {"scan": False, "remat": "full"}}


def loss_plans_gradients(model: VisionTransformer):
    def loss(params, state, x, key):
        out = model.apply(params, state, x, key=key, return_plans=True)
        aux = sum(out.losses.values(), jnp.zeros(()))
        return jnp.square(out.logits).sum() + aux, out.plans

    params, state = ready(dataclasses.replace(model, scan=True, remat="none"))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, state, images(), jax.random.key(3))


@functools.cache
def scanned():
    return loss_plans_gradients(noisy())


def noisy(**fields) -> VisionTransformer:
    """Everything random switched on, so that a stream drawn anew would show."""
    rates = {"dropout_rate": 0.2, "attention_dropout_rate": 0.2, "drop_path_rate": 0.2}
    return vit(TOP_K | {"importance_loss_weight": 0.1, "load_loss_weight": 0.1}, **rates, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_routing_values_and_gradients_are_the_same_under_remat_scan_and_loop(variant: str) -> None:
    (value, plans), gradients = scanned()
    (other_value, other_plans), other_gradients = loss_plans_gradients(noisy(**VARIANTS[variant]))
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    for layer, plan in plans.items():
        np.testing.assert_array_equal(plan.expert, other_plans[layer].expert)
        np.testing.assert_allclose(plan.weight, other_plans[layer].weight, rtol=1e-5)
    for name, leaf in flatten(gradients).items():
        assert np.isfinite(leaf).all(), name
        np.testing.assert_allclose(leaf, flatten(other_gradients)[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert np.abs(flatten(gradients)["blocks/01-02/moe/router/kernel"]).max() > 0


def test_a_key_means_training_and_none_is_deterministic() -> None:
    model = noisy()
    plain = run(model).logits
    np.testing.assert_array_equal(plain, run(model).logits)
    first, second = run(model, jax.random.key(1)).logits, run(model, jax.random.key(2)).logits
    assert not np.allclose(first, second) and not np.allclose(first, plain)


def test_state_is_threaded_through_segments_and_moves_in_training_only() -> None:
    model = vit({"name": "top_k", "num_experts": 3, "bias_update_rate": 0.5})
    _, state = ready(model)
    bias = state["blocks"]["01-02"]["bias"]
    assert bias.shape == (2, 3)
    np.testing.assert_array_equal(run(model).state["blocks"]["01-02"]["bias"], bias)
    trained = run(model, jax.random.key(1))
    moved = trained.state["blocks"]["01-02"]["bias"]
    # The bias moves by 0.5 against the sign of the load, layer by layer.
    for row, layer in enumerate(("block_01", "block_02")):
        np.testing.assert_allclose(moved[row], 0.5 * np.sign(1 / 3 - trained.metrics[f"{layer}/load"]), atol=1e-6)
    assert jax.tree.structure(trained.state) == jax.tree.structure(state)


def test_bfloat16_is_the_activations_dtype_only() -> None:
    model = vit(pooling="avg", dtype="bfloat16")
    params, _ = ready(model)
    out = run(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert out.features.dtype == jnp.bfloat16 and out.logits.dtype == jnp.float32
    reference = run(vit(pooling="avg")).logits
    np.testing.assert_allclose(out.logits, reference, atol=0.15)
    assert not np.array_equal(out.logits, reference)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"patch_size": 3}, "patch_size=3 does not divide image_size=8; resize the pictures to 6 or 9"),
        ({"num_heads": 3}, "num_heads=3 does not divide dim=8"),
        ({"moe_layers": "last1"}, "needs moe="),
        ({"stem": "patches"}, "Did you mean 'patch'"),
        ({"pooling": "mean"}, "pooling='mean' is not allowed"),
        ({"depht": 4}, "Did you mean 'depth'"),
        ({"dim": 6, "num_heads": 2, "positions": "sincos"}, "multiple of 4"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0 must lie in"),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
    ],
)
def test_a_model_that_cannot_be_is_refused_when_it_is_built(fields: dict, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        vit(**fields)


def test_moe_without_a_place_and_a_place_that_is_not_there() -> None:
    with pytest.raises(SpecError, match="say where"):
        vit(TOP_K, moe_layers="none")
    with pytest.raises(SpecError, match="names layer 3; depth=3 has layers 0 to 2"):
        vit(TOP_K, moe_layers=(3,))


def test_pictures_and_batches_of_the_wrong_size_are_refused_before_compilation() -> None:
    model = vit(TOP_K, group_size=10)  # two pictures of 4 patches and a class token
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(SpecError, match=r"must be \[8, 8, 3\].*found \[8, 6, 3\]"):
        jax.eval_shape(model.apply, *shapes, jnp.zeros((2, 8, 6, 3)))
    with pytest.raises(SpecError, match="15 tokens of 3 pictures of 5 tokens; use a batch that is a multiple of 2"):
        jax.eval_shape(model.apply, *shapes, jnp.zeros((3, 8, 8, 3)))
