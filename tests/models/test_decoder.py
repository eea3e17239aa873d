"""Decoders: no token sees a later one, stacked and single layers agree, everything is a leaf by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.spec import build_method
from moejax.core.tree import leaf_names
from moejax.layers.moe import MoE
from moejax.models.decoder import EXAMPLES

DENSE, MIXED = EXAMPLES


@pytest.fixture(params=EXAMPLES, ids=["dense", "mixture"])
def model(request):
    return request.param


def strong(model):
    """Parameters large enough for every part to show, and state."""
    params, state = model.init(jax.random.key(0))
    grown = jax.tree.map(lambda a: a * 3 if a.ndim > 1 else a + 0.1, params)
    return grown | {"embedding": {"tokens": params["embedding"]["tokens"] * 50}}, state


def texts(batch=2, length=7, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 11, (batch, length)), jnp.int32)


def test_no_token_sees_a_later_one(model):
    params, state = strong(model)
    tokens = texts()
    apply = jax.jit(model.apply)
    before = apply(params, state, tokens)
    after = apply(params, state, tokens.at[:, 4:].set((tokens[:, 4:] + 3) % 11))
    assert before.logits.shape == (2, 7, 11)
    np.testing.assert_allclose(before.logits[:, :4], after.logits[:, :4], rtol=1e-6, atol=1e-6)
    assert np.abs(before.logits[:, 4:] - after.logits[:, 4:]).max() > 0.01
    assert np.abs(before.logits - before.logits[:, :1]).max() > 0.01  # and the context matters


def test_layers_alone_equal_layers_stacked_and_unrolled(model):
    params, state = strong(model)
    tokens = texts()
    stacked = model.apply(params, state, tokens, return_plans=True)
    alone = model.apply(split_segments(params), split_segments(state), tokens, return_plans=True)
    unrolled = dataclasses.replace(model, scan=False).apply(params, state, tokens)
    np.testing.assert_allclose(stacked.logits, alone.logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stacked.logits, unrolled.logits, rtol=1e-4, atol=1e-4)
    assert set(stacked.plans) == {f"block_{i:02d}" for i in model.moe_indices}


def test_every_gradient_is_finite_and_there(model):
    params, state = strong(model)
    tokens = texts()

    def loss(params):
        logits = jax.nn.log_softmax(model.apply(params, state, tokens).logits)
        return -jnp.take_along_axis(logits[:, :-1], tokens[:, 1:, None], axis=-1).mean()

    gradients = jax.jit(jax.grad(loss))(params)
    for name, gradient in zip(leaf_names(params), jax.tree.leaves(gradients), strict=True):
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0 or name.endswith("key_bias"), name  # softmax sees no shift common to all keys


def test_names_of_leaves():
    names = set(leaf_names(split_segments(MIXED.init(jax.random.key(0))[0])))
    assert {"embedding/tokens", "norm/scale", "blocks/00/feed_forward/gate/kernel"} <= names
    assert {"blocks/01/moe/experts/down/kernel", "blocks/02/moe/shared_gate/kernel"} <= names
    assert "head/kernel" not in names
    assert "head/kernel" in leaf_names(DENSE.init(jax.random.key(0))[0])


def test_a_tied_head_is_the_table():
    params, state = strong(MIXED)
    found = MIXED.apply(params, state, texts())
    by_hand = np.asarray(found.features) @ np.asarray(params["embedding"]["tokens"]).T
    np.testing.assert_allclose(found.logits, by_hand, rtol=1e-5, atol=1e-4)


def test_dropout_and_noise_need_a_key(model):
    model = dataclasses.replace(model, dropout_rate=0.3)
    params, state = strong(model)
    tokens = texts()
    once, twice = (model.apply(params, state, tokens).logits for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    first, other = (model.apply(params, state, tokens, key=jax.random.key(k)).logits for k in (1, 2))
    assert not np.allclose(first, other)


def test_bfloat16_activations(model):
    model = dataclasses.replace(model, dtype="bfloat16")
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    found = jax.eval_shape(model.apply, *shapes, jax.ShapeDtypeStruct((2, 4), jnp.int32))
    assert (found.logits.dtype, found.features.dtype) == (jnp.float32, jnp.bfloat16)


def test_another_bank_for_dense_blocks():
    bank = build_method("experts", {"name": "mlp", "expert_dim": 5})
    params, _ = dataclasses.replace(DENSE, feed_forward=bank).init(jax.random.key(0))
    assert params["blocks"]["00-01"]["feed_forward"]["up"].kernel.shape == (2, 8, 5)


def test_routers_that_see_the_future_are_refused():
    for router in ({"name": "expert_choice", "num_experts": 4}, {"name": "soft", "num_experts": 4, "num_slots": 1}):
        moe = MoE(router=build_method("routing", router), experts=MIXED.moe.experts)
        with pytest.raises(SpecError, match="depend on later tokens"):
            dataclasses.replace(MIXED, moe=moe)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        ({"num_heads": 3}, "num_heads=3 does not divide dim=8"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=2"),
        ({"head_dim": 3}, "head_dim=3 must be even"),
        ({"moe_layers": "all"}, "needs moe="),
        ({"moe": MIXED.moe}, "moe_layers='none'"),
        ({"dropout_rate": -0.1}, "dropout_rate=-0.1"),
        ({"norm_epsilon": -1.0}, "epsilon=-1.0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(DENSE, **fields)


def test_bad_sequences():
    params, state = DENSE.init(jax.random.key(0))
    with pytest.raises(SpecError, match="sequences have 17 tokens; this model takes 1 to max_length=16"):
        DENSE.apply(params, state, texts(length=17))
    grouped = dataclasses.replace(MIXED, moe=dataclasses.replace(MIXED.moe, group_size=4))
    with pytest.raises(SpecError, match="6 tokens of 2 sequences"):
        grouped.check_batch(2, 3)
