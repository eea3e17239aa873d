"""Leaves in place of dense kernels: attention, dense feed-forward layers, whole models, checkpoints, sharding, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from moejax.core.tree import flatten
from moejax.experts.mlp import MlpExperts
from moejax.layers.feed_forward import FeedForward
from moejax.linear.dense import Dense
from moejax.linear.expert_axis import drop_expert_axis, take_experts
from moejax.linear.low_rank import LowRank
from moejax.linear.spectral import Spectral
from moejax.models.vit import VisionTransformer
from moejax.sharding.rules import Rules, param_specs
from moejax.train.checkpoints import Checkpoints
from moejax.train.stored_leaves import fill
from tests.child_programs import output_of
from tests.linear.leaf_examples import NAMES, close, drawn, normal

FIRST = [name for name in NAMES if name.endswith("-0")]
MODEL = VisionTransformer(image_size=8, patch_size=4, dim=8, depth=3, num_heads=2, mlp_dim=16, num_classes=3)


def over_kernels(params, function):
    """Every Dense leaf of the blocks replaced."""
    changed = jax.tree.map(
        lambda node: function(node) if isinstance(node, Dense) else node,
        params["blocks"],
        is_leaf=lambda node: isinstance(node, Dense),
    )
    return params | {"blocks": changed}


def low_rank(leaf, rank=3):
    u, s, v = jnp.linalg.svd(leaf.kernel, full_matrices=False)
    return LowRank(u[..., :rank] * s[..., None, :rank], v[..., :rank, :])


def spectral(leaf, rank=3):
    u, s, v = jnp.linalg.svd(leaf.kernel, full_matrices=False)
    u, s, v = u[..., :rank], s[..., :rank], v[..., :rank, :]
    return Spectral(u, s, 0.1 * jnp.ones_like(s), v, leaf.kernel - (u * s[..., None, :]) @ v, rectified=False)


@pytest.mark.parametrize("made", [low_rank, spectral])
def test_a_model_with_other_leaves_has_the_logits_of_their_kernels(made):
    params, state = MODEL.init(jax.random.key(0))
    params["head"] = Dense(normal(3, 8, 3))
    thin = over_kernels(params, made)
    dense = over_kernels(params, lambda leaf: Dense(made(leaf).materialise()))
    assert len(jax.tree.leaves(thin["blocks"])) > len(jax.tree.leaves(dense["blocks"]))
    images = normal(1, 2, 8, 8, 3)

    def loss(params, images):
        logits = MODEL.apply(params, state, images).logits
        return jnp.sum(jnp.sin(logits)), logits

    (found, gradient), (wanted, other) = (
        jax.jit(jax.value_and_grad(loss, argnums=1, has_aux=True))(p, images) for p in (thin, dense)
    )
    assert np.any(found[1])
    close(found, wanted)
    close(gradient, other, 1e-4)


@pytest.mark.parametrize("name", FIRST)
def test_a_dense_mlp_takes_every_leaf(name):
    leaf = drop_expert_axis(take_experts(drawn(name), (1,)))
    depth, width = leaf.materialise().shape
    layer = FeedForward(experts=MlpExperts(expert_dim=width))
    params = layer.init(jax.random.key(0), depth)
    x = normal(1, 2, 3, depth)
    found = jax.jit(layer.apply)(params | {"up": leaf}, x)
    close(found, jax.jit(layer.apply)(params | {"up": Dense(leaf.materialise())}, x))


def test_checkpoints_bring_every_leaf_back(tmp_path):
    params = {name: drawn(name) for name in NAMES}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": params}, progress={}, config={}, wait=True)
        template = jax.eval_shape(lambda: {"params": params})
        restored = checkpoints.restore(template)
    back = fill(template, restored.leaves)["params"]
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_experts_share_is_not_cut_over_them(name, stacked):
    leaf = drawn(name, num_experts=8)
    block, first = ("00-01", (None,)) if stacked else ("00", ())
    if stacked:
        leaf = jax.tree.map(lambda array: jnp.broadcast_to(array, (2, *array.shape)), leaf)
    params = {"blocks": {block: {"moe": {"experts": {"up": leaf, "down": leaf}}}}}
    specs = flatten(param_specs(params, Rules()))
    shared = shared_names(leaf)
    assert any(spec != P() for spec in specs.values()) or len(shared) == len(flatten(leaf))
    for side in ("up", "down"):
        for field, array in flatten(leaf).items():
            spec = specs[f"blocks/{block}/moe/experts/{side}/{field}"]
            assert len(spec) <= array.ndim
            if field in shared:
                assert "expert" not in spec
            else:
                assert tuple(spec)[: len(first) + 1] == (*first, "expert"), (field, spec)
                assert array.shape[len(first)] == 8


SHARED = {
    "shared_factor-0": {"u"},
    "shared_factor-1": {"v"},
    "shared_basis-0": {"basis"},
    "shared_basis-1": {"basis"},
    "cp-0": {"u", "v"},
    "tensor_ring-0": {"input", "output"},
    "mpo-0": {"central"},
    "dense-0": set(),
    "low_rank-1": set(),
}


def shared_names(leaf):
    """Names of the arrays below the leaf's shared fields, those of leaves inside it included."""
    names = set(flatten(leaf))
    shared = {name for name in names if name.split("/")[0] in leaf.shared_fields()}
    for field in {name.split("/")[0] for name in names}:
        inner = getattr(leaf, field)
        if hasattr(inner, "shared_fields"):
            shared |= {f"{field}/{name}" for name in shared_names(inner)}
    return shared


@pytest.mark.parametrize("name", SHARED)
def test_shared_arrays_by_name(name):
    assert shared_names(drawn(name)) == SHARED[name]


def test_factors_split_their_outer_side():
    leaf = LowRank(jnp.zeros((8, 6, 3)), jnp.zeros((8, 3, 6)))
    one = LowRank(jnp.zeros((6, 3)), jnp.zeros((3, 6)))
    params = {
        "moe": {"experts": {"up": leaf, "down": leaf}},
        "feed_forward": {"up": one, "down": one},
        "attention": {"query": one, "out": one},
    }
    specs = param_specs(params, Rules())
    assert specs["moe"]["experts"]["up"] == LowRank(P("expert"), P("expert", None, "model"))
    assert specs["moe"]["experts"]["down"] == LowRank(P("expert", "model"), P("expert"))
    for pair in (specs["feed_forward"]["up"], specs["attention"]["query"]):
        assert pair == LowRank(P(), P(None, "model"))
    for pair in (specs["feed_forward"]["down"], specs["attention"]["out"]):
        assert pair == LowRank(P("model"), P())


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from moejax.core.layouts import Buffers, Ragged
from moejax.linear.expert_axis import cleared
from moejax.sharding.mesh import MeshSpec
from moejax.sharding.rules import Rules, param_specs
from tests.linear.leaf_examples import close, drawn, kernels_of, normal

mesh = MeshSpec(data=2, expert=4).build()
E = 8
sizes = jnp.array([[[3, 0], [1, 2], [0, 0], [4, 2]], [[0, 5], [6, 0], [1, 1], [2, 2]]], jnp.int32)  # [data, expert, own]

def loss(y):
    return jnp.sum(jnp.sin(y))

for name in PART:
    leaf = cleared(drawn(name, num_experts=E))
    depth = leaf.materialise().shape[-2]
    specs = param_specs({"experts": {"w": leaf}}, Rules())["experts"]["w"]
    buffers = normal(1, 2, E, 3, depth)  # each data row has its own slots of every expert
    rows = normal(2, 2, 4, 6, depth) * (jnp.arange(6) < sizes.sum(-1)[..., None])[..., None].astype(jnp.float32)

    def local(leaf, buffers, rows, sizes):
        y = leaf.grouped_matmul(Buffers(buffers[0])).tokens
        z = leaf.grouped_matmul(Ragged(rows[0, 0], sizes[0, 0])).tokens
        return jax.lax.psum(loss(y) + loss(z), ("data", "expert"))

    where = (specs, P("data", "expert"), P("data", "expert"), P("data", "expert"))
    cut = jax.shard_map(local, mesh=mesh, in_specs=where, out_specs=P())

    def whole(leaf, buffers, rows, sizes):
        kernel = kernels_of(leaf, E)
        total = loss(jnp.einsum("gecd,edf->gecf", buffers, kernel))
        counts = np.asarray(SIZES)
        for g in range(2):
            for i in range(4):
                owner = 2 * i + np.repeat([0, 1], counts[g, i])
                total = total + loss(jnp.einsum("md,mdf->mf", rows[g, i, : len(owner)], kernel[owner]))
        return total

    SIZES = sizes
    found, wanted = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(leaf, buffers, rows, sizes) for f in (cut, whole)
    )
    close(found, wanted, 1e-4)
    print(name, "agrees")
print("eight devices agree")
"""


CUT = [*FIRST, "shared_factor-1", "shared_basis-1"]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
def test_inside_shard_map_on_eight_devices(part):
    names = CUT[part::3]
    found = output_of("-c", f"PART = {names}\n{ON_DEVICES}")
    assert found.splitlines() == [*(f"{name} agrees" for name in names), "eight devices agree"]
