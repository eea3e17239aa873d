"""Shortcut-connected blocks: what depends on what, the same numbers written out, and whole models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.experts.mlp import MlpExperts
from moejax.layers.attention import Attention
from moejax.layers.block import Block
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.layers.norms import LayerNorm
from moejax.layers.shortcut_block import ShortcutBlock
from moejax.models.vit import VisionTransformer
from moejax.routing.top_k import TopKRouter
from moejax.sharding.mesh import MeshSpec

ROUTER = TopKRouter(num_experts=4, num_selected_experts=2, noise_std=0.0)
MOE = MoE(router=ROUTER, experts=MlpExperts(expert_dim=6), shared=MlpExperts(expert_dim=5))
ATTENTION = Attention(num_heads=2)


def meeting(jaxpr, marked):
    """Of two groups of inputs, `marked`: input -> 0 or 1: names of the operations in which what depends on the one first meets what
    depends on the other; and which groups the exchange between devices depends on.
    """
    reach = {var: {group} for var, group in marked.items()}
    found, exchange = [], set()
    for equation in jaxpr.eqns:
        inputs = [var for var in equation.invars if not hasattr(var, "val")]
        apart = [reach.get(var, set()) for var in inputs]
        together = set().union(*apart) if apart else set()
        if together == {0, 1} and {0, 1} not in apart:
            found.append(equation.primitive.name)
        exchange |= together if equation.primitive.name == "shard_map" else set()
        reach |= dict.fromkeys(equation.outvars, together)
    return found, exchange


def where_attention_meets_experts(block, **inputs):
    """`meeting` of what the block's attention computes (0) and what its routed experts do (1)."""
    params, state = jax.eval_shape(lambda: block.init(jax.random.key(0), 8))
    x = jax.ShapeDtypeStruct((8, 3, 8), jnp.float32)
    given = dict.fromkeys(inputs, x)
    traced = jax.make_jaxpr(lambda params, x, given: block.apply(params, state, x, **given).tokens)(params, x, given)
    group = {"attention": 0, "norm_1": 0, "experts": 1, "router": 1}
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    marked = {}
    for path, var in zip(paths, traced.jaxpr.invars, strict=False):
        keys = {getattr(entry, "key", None) for entry in path}
        if names := keys & group.keys():
            marked[var] = group[names.pop()]
    assert set(marked.values()) == {0, 1}
    return meeting(traced.jaxpr, marked)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_routed_branch_knows_nothing_of_the_attention(devices):
    mesh = MeshSpec(data=2, expert=4).abstract(8) if devices == 8 else MeshSpec(data=1).abstract(1)
    with jax.sharding.use_abstract_mesh(mesh):
        shortcut, own_exchange = where_attention_meets_experts(
            ShortcutBlock(attention=ATTENTION, mixer=MOE), shortcut=True
        )
        ordinary, exchange = where_attention_meets_experts(Block(attention=ATTENTION, mixer=MOE))
    assert set(shortcut) <= {"add", "add_any"} and shortcut  # sums at the end, no product, no exchange
    assert not set(ordinary) <= {"add", "add_any"}  # there the router reads what the attention gives
    assert own_exchange == ({1} if devices == 8 else set())
    assert exchange == ({0, 1} if devices == 8 else set())


@pytest.mark.slow
def test_the_numbers_written_out():
    block = ShortcutBlock(attention=ATTENTION, mixer=MOE)
    params, state = block.init(jax.random.key(0), 8)
    x, before = (jax.random.normal(jax.random.key(i), (2, 3, 8)) for i in (1, 2))
    found = jax.jit(lambda params: block.apply(params, state, x, shortcut=before))(params)
    norm = LayerNorm().apply
    h = x + ATTENTION.apply(params["attention"], norm(params["norm_1"], x))
    bare = MoE(router=ROUTER, experts=MlpExperts(expert_dim=6))
    routed = bare.apply(params["moe"], state, norm(params["norm_routed"], before)).tokens
    shared = FeedForward(experts=MOE.shared).apply(params["moe"]["shared"], norm(params["norm_2"], h))
    np.testing.assert_allclose(found.tokens, h + shared + routed, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.shortcut, h, rtol=1e-5, atol=1e-6)


FIELDS = {"image_size": 8, "patch_size": 4, "dim": 8, "num_heads": 2, "mlp_dim": 8, "num_classes": 3}
LAYER = {
    "router": {"name": "top_k", "num_experts": 4, "noise_std": 0.0},
    "experts": {"name": "mlp", "expert_dim": 6},
    "shared": {"name": "mlp", "expert_dim": 5},
}


def vit(**fields):
    return build_spec(VisionTransformer, FIELDS | {"moe": LAYER, "shortcut": True} | fields)


@pytest.mark.slow
def test_in_a_model_the_block_before_gives_the_shortcut():
    model = vit(depth=4, moe_layers="every2")
    params, state = model.init(jax.random.key(0))
    draw = lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape)  # noqa: E731
    params["head"] = jax.tree.map(draw, params["head"])  # it starts at zero
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    pairs = [params["blocks"]["00-02by2"], params["blocks"]["01-03by2"]]
    x = shortcut = model.embed(params["embedding"], images)
    for i, block in enumerate(model.blocks):
        tree = jax.tree.map(lambda leaf, i=i: leaf[i // 2], pairs[i % 2])
        out = block.apply(tree, {}, x, **({"shortcut": shortcut} if i % 2 else {}))
        x, shortcut = out.tokens, out.shortcut
    wanted = model.classify(params, x)[0]
    assert np.abs(wanted).max() > 0.1
    for remat in ("none", "full"):
        again = vit(depth=4, moe_layers="every2", remat=remat)
        run = jax.jit(lambda params, again=again: again.apply(params, state, images).logits)
        np.testing.assert_allclose(run(params), wanted, rtol=1e-4, atol=1e-5)
    slopes = jax.grad(lambda params: jnp.sum(model.apply(params, state, images).logits ** 2))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert np.abs(slopes["blocks"]["01-03by2"]["moe"]["experts"]["up"].kernel).max() > 1e-3


def test_what_does_not_fit():
    with pytest.raises(SpecError, match="has its first at 0; begin at 1"):
        vit(depth=2, moe_layers="all")
    with pytest.raises(SpecError, match="give moe.shared a bank"):
        vit(depth=2, moe_layers="every2", moe=LAYER | {"shared": None})
    with pytest.raises(SpecError, match="has none"):
        vit(depth=2, moe=None)
