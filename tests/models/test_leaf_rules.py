"""Rules over leaf names: which wins, what each makes, and that upcycled layers compute what the dense one did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from moejax.core.errors import SpecError
from moejax.core.spec import build_method, build_spec
from moejax.core.tree import flatten
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.models.leaf_rules import build_rules, resize_positions
from moejax.models.leaf_transfer import transfer

DIM, WIDTH = 6, 12
BANKS = ("mlp", "swiglu")


def lively(tree, seed):
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(structure, [jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)])


def dense(bank):
    layer = FeedForward(experts=build_method("experts", {"name": bank, "expert_dim": WIDTH}))
    return layer, lively(layer.init(jax.random.key(0), DIM), 1)


def mixture(bank, width, **router):
    return build_spec(MoE, {"router": {"name": "top_k", **router}, "experts": {"name": bank, "expert_dim": width}})


def upcycled(bank, width, rules, **router):
    """The outputs of the dense layer and of the one with experts, with a router that has preferences."""
    layer, mlp = dense(bank)
    moe = mixture(bank, width, **router)
    fresh, state = moe.init(jax.random.key(2), DIM)
    fresh["router"] = lively(fresh["router"], 3)
    made, log = transfer(
        flatten({"blocks": {"03": {"feed_forward": mlp}}}), {"blocks": {"03": {"moe": fresh}}}, rules, jax.random.key(4)
    )
    x = jax.random.normal(jax.random.key(5), (2, 7, DIM))
    params = jax.tree.map(jnp.asarray, made["blocks"]["03"]["moe"])
    return np.asarray(layer.apply(mlp, x)), np.asarray(moe.apply(params, state, x).tokens), params, log


@pytest.mark.parametrize("bank", BANKS)
def test_copies_are_the_dense_layer_where_gates_sum_to_one(bank):
    rules = [("moe/experts", "copy_experts"), ("moe/router", "fresh")]
    for router in (
        {"num_experts": 4, "num_selected_experts": 2, "renormalize": True},
        {"num_experts": 3, "num_selected_experts": 3},
    ):
        wanted, found, _, log = upcycled(bank, WIDTH, rules, **router)
        assert np.abs(wanted).max() > 1
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
    assert "blocks/03/moe/router/kernel matches 'moe/router' -> Fresh()" in log


@pytest.mark.parametrize("bank", BANKS)
def test_virtual_groups_are_the_dense_layer_for_any_router_whose_gates_sum_to_one(bank):
    # E = 3 copies in G = 2 parts: 6 experts of half the width, of which K = 4 make two copies whole.
    rules = [("moe", {"name": "virtual_groups", "num_parts": 2, "num_selected_experts": 4, "gates": "sum_to_one"})]
    for order in ({"renormalize": True}, {"order": "top_k_then_softmax"}):
        wanted, found, params, _ = upcycled(bank, WIDTH // 2, rules, num_experts=6, num_selected_experts=4, **order)
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
    kernel = np.asarray(params["router"]["kernel"])
    np.testing.assert_array_equal(kernel[:, 0::2], kernel[:, 1::2])
    assert len(np.unique(kernel)) == 3 * DIM


def test_virtual_groups_under_a_softmax_over_all_experts():
    # Scale N G / K = 6 * 2 / 4 = 3 on the output: an indifferent router's gates are 1/6, and 4 of them, 2 of each part, make
    # 3 * 2 / 6 = 1 of each part.
    rules = [("experts", {"name": "virtual_groups", "num_parts": 2, "num_selected_experts": 4}), ("router", "zeros")]
    wanted, found, params, _ = upcycled("mlp", WIDTH // 2, rules, num_experts=6, num_selected_experts=4)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)
    _, mlp = dense("mlp")
    np.testing.assert_allclose(params["experts"]["down"].kernel[2], 3 * mlp["down"].kernel[:6], rtol=1e-6)
    np.testing.assert_allclose(params["experts"]["down_bias"][5], 1.5 * mlp["down_bias"], rtol=1e-6)
    np.testing.assert_array_equal(params["experts"]["up"].kernel[3], mlp["up"].kernel[:, 6:])


def test_noise_is_in_units_of_the_leaf_and_differs_by_expert():
    rules = [("moe/experts", {"name": "copy_experts", "noise_std": 0.5}), ("router", "fresh")]
    _, _, params, _ = upcycled("mlp", WIDTH, rules, num_experts=4)
    _, mlp = dense("mlp")
    noise = np.asarray(params["experts"]["up"].kernel) - np.asarray(mlp["up"].kernel)
    assert 0.4 < noise.std() / np.asarray(mlp["up"].kernel).std() < 0.6
    assert len(np.unique(noise)) > 0.9 * noise.size


def test_the_first_match_wins_and_stacks_do_not_matter():
    source = {"blocks": {"00-01": {"a": np.arange(4.0).reshape(2, 2)}}, "head": np.ones(3)}
    target = {"blocks": {"00": {"a": np.zeros(2)}, "01": {"a": np.full(2, 9.0)}}, "head": np.zeros(5)}
    rules = [("^blocks/01", "fresh"), ("^blocks", "zeros"), ("^head", "fresh")]
    found, log = transfer(flatten(source), target, rules, jax.random.key(0))
    np.testing.assert_array_equal(found["blocks"]["00"]["a"], [0, 0])
    np.testing.assert_array_equal(found["blocks"]["01"]["a"], [9, 9])
    assert [line.split(" matches ")[0] for line in log] == [
        "blocks/00/a",
        "blocks/01/a",
        "head",
        *(f"{name} of the source is not used" for name in ("blocks/00/a", "blocks/01/a", "head")),
    ]
    loaded, _ = transfer(flatten(source), target, [("^head", "fresh")], jax.random.key(0))
    np.testing.assert_array_equal(loaded["blocks"]["01"]["a"], [2, 3])
    again, _ = transfer(flatten(loaded), {**source, "head": np.zeros(5)}, [], jax.random.key(0))
    np.testing.assert_array_equal(again["blocks"]["00-01"]["a"], source["blocks"]["00-01"]["a"])
    turned, _ = transfer(
        {"a/x": np.ones(2)},
        {"b": {"x": np.zeros(2)}},
        [(r"^b/(\w+)", {"name": "load", "source": r"a/\1"})],
        jax.random.key(0),
    )
    np.testing.assert_array_equal(turned["b"]["x"], [1, 1])


def test_resized_positions():
    table = np.random.default_rng(0).normal(size=(1, 10, 4)).astype(np.float32)
    found = resize_positions(table, 26)
    wanted = scipy.ndimage.zoom(table[0, 1:].reshape(3, 3, 4), (5 / 3, 5 / 3, 1), order=1)
    np.testing.assert_allclose(found[0, 1:].reshape(5, 5, 4), wanted, atol=1e-6)
    np.testing.assert_array_equal(found[:, :1], table[:, :1])
    np.testing.assert_array_equal(resize_positions(table, 10), table)
    assert resize_positions(table[:, 1:], 4).shape == (1, 4, 4)
    with pytest.raises(SpecError, match="10 -> 12 entries, of which 1"):
        resize_positions(table, 12)
    made, _ = transfer(
        {"p": table}, {"p": np.zeros((1, 26, 4), np.float32)}, [("^p", "resize_positions")], jax.random.key(0)
    )
    np.testing.assert_array_equal(made["p"], found)


@pytest.mark.parametrize(
    "rules, message",
    [
        ([("haed", "fresh")], "found in no leaf name.* Did you mean 'head'"),
        ([("head", "frehs")], "Did you mean 'fresh'"),
        ([("head", {"name": "copy_experts", "noise": 1.0})], "noise is not a field of CopyExperts.* Did you mean 'noise_std'"),
        ([("head", {"name": "copy_experts", "noise_std": -1.0})], "must not be negative"),
        ([("head", {"name": "virtual_groups", "num_parts": 2, "num_selected_experts": 3})], "must be a multiple of num_parts"),
        ([("[", "fresh")], "is not a regular expression"),
        (["head"], "must be a pair"),
        ([("head", "copy_experts")], "head is no leaf of a bank of experts"),
        ([], r"2 leaves do not fit:\n  body: the source has no leaf 'body'.* Did you mean 'bodi'.*\n  head must be \[5\], found \[3\]"),
    ],
)  # fmt: skip
def test_wrong_rules(rules, message):
    source = {"head": np.ones(3), "bodi": np.ones(2)}
    with pytest.raises(SpecError, match=message):
        transfer(source, {"head": np.zeros(5), "body": np.zeros(2)}, rules, jax.random.key(0))


def test_shapes_alone_are_checked():
    shapes = {"blocks": {"00-01": {"a": jax.ShapeDtypeStruct((2, 3), np.float32)}}}
    source = {"blocks/00/a": np.ones(3, np.float32), "blocks/01/a": np.ones(4, np.float32)}
    with pytest.raises(SpecError, match=r"blocks/01/a must be \[3\], found \[4\]"):
        transfer(source, shapes, [], jax.random.key(0))
    found, _ = transfer(source, shapes, [("01", "fresh"), ("00", "fresh")], jax.random.key(0))
    assert found["blocks"]["00-01"]["a"].shape == (2, 3)
    assert len(build_rules([("a", "load"), ("b", {"name": "fresh"})])) == 2
