"""The diffusion transformer: zero start, dense and mixed blocks that agree, variants, streams, and errors before compilation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from moejax.core.errors import SpecError
from moejax.core.plans import ExpertChoice, SlotMix, TokenChoice
from moejax.core.segments import split_segments
from moejax.core.spec import build_method
from moejax.core.tree import flatten
from moejax.layers.positions import sincos_2d
from moejax.models.dit import DiffusionTransformer
from moejax.models.interval_experts import experts_by_interval
from moejax.sharding.rules import Rules, param_specs

SMALL = {"image_size": 8, "patch_size": 4, "dim": 8, "depth": 3, "num_heads": 2, "mlp_dim": 12, "num_classes": 3}
TOP_K = {"name": "top_k", "num_experts": 3, "num_selected_experts": 2, "noise_std": 0.0, "balance_loss_weight": 0.1}
SWIGLU = {"name": "swiglu", "expert_dim": 6}
SHARED = {"name": "swiglu", "expert_dim": 4}


def dit(router: dict | None = None, experts: dict | None = None, shared: dict | None = None, **fields):
    """A small model; with a router every block is MoE."""
    if router is not None:
        fields = {"moe": {"router": router, "experts": experts or SWIGLU, "shared": shared}} | fields
    return build_method("models", {"name": "dit"} | SMALL | fields)


def noised(batch: int = 2) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = jax.random.normal(jax.random.key(5), (batch, 8, 8, 3))
    return x, jnp.linspace(20.0, 900.0, batch), jnp.arange(batch, dtype=jnp.int32) % 3


@functools.cache
def ready(model: DiffusionTransformer):
    """Parameters without zeros, so that every leaf shows (and without compiling `init`)."""
    rng = np.random.default_rng(0)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.4, leaf.dtype), params)
    return params, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)


@functools.cache
def compiled(model: DiffusionTransformer):
    return jax.jit(lambda p, s, given, k: model.apply(p, s, *given, key=k, return_plans=True))


def run(model: DiffusionTransformer, key=None, given=None, params=None):
    fresh, state = ready(model)
    return compiled(model)(fresh if params is None else params, state, noised() if given is None else given, key)


def test_a_new_model_says_nothing_and_its_blocks_are_the_identity() -> None:
    model = dit(TOP_K, shared=SHARED, learn_variance=True, label_dropout=0.1)
    params, state = jax.jit(model.init)(jax.random.key(0))
    out = run(model, params=params)
    assert out.prediction.shape == out.variance.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(out.prediction, 0.0)
    np.testing.assert_array_equal(out.variance, 0.0)
    x = jax.random.normal(jax.random.key(1), (2, 4, 8))
    block = split_segments(params["blocks"])["01"]
    moved = jax.jit(lambda p, x: model.blocks[1].apply(p, {}, x, x[:, 0], x[:, 0, 0]).tokens)(block, x)
    np.testing.assert_array_equal(moved, x)


def test_patches_come_back_where_they_were() -> None:
    model = dit()
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    # A stem that copies: its kernel is the identity, so that a token is its patch.
    stem = dataclasses.replace(model.stem_spec, dim=48)
    params = jax.tree.map(jnp.zeros_like, stem.init(jax.random.key(0)))
    params["patch"] = dataclasses.replace(params["patch"], kernel=jnp.eye(48))
    patches = stem.apply(params, x).reshape(2, 4, 48)
    np.testing.assert_array_equal(model.unpatchify(patches), x)
    # By hand: patch 1 is the upper right one; its entry 3 * (4 * 2 + 1) + 2 is its row 2, column 1, channel 2.
    assert patches[0, 1, 29] == x[0, 2, 4 + 1, 2]


def test_the_parts_of_a_forward_pass_in_numpy() -> None:
    """One dense block, everything written out."""
    model = dit(depth=1, label_dropout=0.5, qk_norm=True)
    params, _ = ready(model)
    x, time, label = noised()
    p = {name: np.asarray(leaf, np.float64) for name, leaf in flatten(params).items()}

    def linear(y, name, bias=None):
        return y @ p[f"{name}/kernel"] + p[bias or f"{name}_bias"]

    def silu(y):
        return y / (1 + np.exp(-y))

    def norm(y):
        return (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)

    angle = np.asarray(time, np.float64)[:, None] * np.exp(-np.log(10_000) * np.arange(128) / 128)
    features = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    condition = linear(silu(linear(features, "embedding/time/hidden")), "embedding/time/out")
    condition = condition + p["embedding/labels"][np.asarray(label)]
    patches = np.asarray(x, np.float64).reshape(2, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 48)
    tokens = linear(patches, "embedding/stem/patch") + sincos_2d(2, 2, 8, reach_end=False)
    six = [v[:, None] for v in np.split(linear(silu(condition), "blocks/00/modulation"), 6, axis=1)]

    hidden = norm(tokens) * (1 + six[1]) + six[0]
    heads = {n: linear(hidden, f"blocks/00/attention/{n}").reshape(2, 4, 2, 4) for n in ("query", "key", "value")}
    for n in ("query", "key"):
        scale, bias = (p[f"blocks/00/attention/{n}_norm/{part}"] for part in ("scale", "bias"))
        heads[n] = norm(heads[n]) * scale + bias
    scores = np.einsum("bthd,bshd->bhts", heads["query"], heads["key"]) / 2
    weight = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhts,bshd->bthd", weight, heads["value"]).reshape(2, 4, 8)
    tokens = tokens + six[2] * linear(mixed, "blocks/00/attention/out")

    hidden = linear(norm(tokens) * (1 + six[4]) + six[3], "blocks/00/feed_forward/up")
    hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    tokens = tokens + six[5] * linear(hidden, "blocks/00/feed_forward/down")

    shift, scale = (v[:, None] for v in np.split(linear(silu(condition), "final/modulation"), 2, axis=1))
    out = linear(norm(tokens) * (1 + scale) + shift, "final/out").reshape(2, 2, 2, 4, 4, 3)
    expected = out.transpose(0, 1, 3, 2, 4, 5).reshape(2, 8, 8, 3)
    np.testing.assert_allclose(run(model).prediction, expected, rtol=1e-3, atol=1e-4)


def test_one_expert_without_a_shared_one_is_the_dense_block() -> None:
    dense, mixed = dit(feed_forward=SWIGLU), dit(TOP_K | {"num_experts": 1, "num_selected_experts": 1})
    params, _ = ready(mixed)
    blocks = {}
    for name, tree in params["blocks"].items():
        bank = jax.tree.map(lambda leaf: leaf[:, 0], tree["moe"]["experts"])  # [L E ...] -> [L ...]
        blocks[name] = {k: v for k, v in tree.items() if k != "moe"} | {"feed_forward": bank}
    ours, theirs = run(mixed).prediction, run(dense, params=params | {"blocks": blocks}).prediction
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


VARIANTS = {
    "dense": ({}, None),
    "top_k": ({"router": TOP_K, "shared": SHARED}, TokenChoice),
    "expert_choice": ({"router": {"name": "expert_choice", "num_experts": 3, "capacity_factor": 2.0}}, ExpertChoice),
    "soft": ({"router": {"name": "soft", "num_experts": 3, "num_slots": 2}}, SlotMix),
    "low_rank": (
        {"router": TOP_K, "experts": {"name": "low_rank", "expert_dim": 6, "rank": 2, "gated": True}},
        TokenChoice,
    ),
    "residual": (
        {"router": TOP_K, "experts": {"name": "residual", "expert_dim": 6, "rank": 1, "gated": True}},
        TokenChoice,
    ),
    "time_groups": (
        {"router": {"name": "time_groups", "num_experts": 4, "num_selected_experts": 2, "boundaries": (500,)}},
        TokenChoice,
    ),
    "one_per_interval": ({"router": {"name": "time_groups", "num_experts": 2, "boundaries": (500,)}}, TokenChoice),
}


QUICK = ("top_k",)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS])
def test_every_variant_trains_a_step(name: str) -> None:
    fields, plan_type = VARIANTS[name]
    model = dit(**fields, label_dropout=0.1, qk_norm=True, learn_variance=True)
    params, state = ready(model)

    def loss(params, key):
        out = model.apply(params, state, *noised(), key=key, return_plans=True)
        aux = sum(out.losses.values(), jnp.zeros(()))
        return jnp.square(out.prediction).mean() + jnp.square(out.variance).mean() + aux, out.plans

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (before, plans), gradient = step(params, jax.random.key(3))
    for path, leaf in flatten(gradient).items():
        assert np.isfinite(leaf).all(), path
    assert list(plans) == ([] if plan_type is None else ["block_00", "block_01", "block_02"])
    assert all(isinstance(plan, plan_type) for plan in plans.values())
    size = 1e-3 / np.sqrt(sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(gradient)))
    moved = jax.tree.map(lambda p, g: p - jnp.asarray(size, p.dtype) * g, params, gradient)
    assert step(moved, jax.random.key(3))[0][0] < before


def test_the_time_says_which_experts_work() -> None:
    model = dit(**VARIANTS["time_groups"][0])
    plans = run(model).plans  # times 20 and 900
    for plan in plans.values():
        assert plan.expert[0].max() <= 1 and plan.expert[1].min() >= 2
    positions = dit({"name": "hash", "num_experts": 2, "table_size": 4})
    same = run(positions).plans["block_00"].expert
    np.testing.assert_array_equal(same[0], same[1])  # a hash of positions: routers that do not ask get no time


@pytest.mark.parametrize("kind", [pytest.param("dense", marks=pytest.mark.slow), "top_k"])
def test_experts_copied_into_intervals_say_what_the_one_denoiser_says(kind: str) -> None:
    if kind == "dense":
        old = dit(feed_forward=SWIGLU, moe_layers="all")
        new = dit({"name": "time_groups", "num_experts": 3, "boundaries": (100, 500)}, moe_layers=(0, 2))
        new = dataclasses.replace(new, feed_forward=old.feed_forward)
    else:
        old = dit(TOP_K | {"balance_loss_weight": 0.0}, shared=SHARED)
        timed = {"name": "time_groups", "num_experts": 9, "num_selected_experts": 2, "boundaries": (100, 500)}
        new = dit(timed, shared=SHARED)
    params, _ = ready(old)
    copied = experts_by_interval(params, old, new)
    shapes = jax.tree.map(lambda leaf: leaf.shape, ready(new)[0])
    assert jax.tree.map(lambda leaf: leaf.shape, copied) == shapes
    x, _, label = noised(3)
    given = x, jnp.asarray([3.0, 100.0, 999.0]), label
    expected = run(old, given=given).prediction
    np.testing.assert_allclose(run(new, given=given, params=copied).prediction, expected, rtol=1e-5, atol=1e-5)


def test_layers_that_cannot_be_copied_into_intervals() -> None:
    old, timed = dit(TOP_K), {"name": "time_groups", "num_experts": 6, "boundaries": (500,)}
    with pytest.raises(SpecError, match="cannot start as copies"):  # one chosen expert where there were two
        experts_by_interval(ready(old)[0], old, dit(timed))
    with pytest.raises(SpecError, match="is TopKRouter; experts by time need 'time_groups'"):
        experts_by_interval(ready(old)[0], old, dit(TOP_K | {"num_experts": 2}))
    with pytest.raises(SpecError, match="depth=2 of the new model is 3 in the old one"):
        experts_by_interval(ready(old)[0], old, dit(timed, depth=2))
    with pytest.raises(SpecError, match="no null label"):
        experts_by_interval(ready(old)[0], old, dit(timed, label_dropout=0.1))


def test_experts_are_split_over_the_expert_axis_of_a_mesh() -> None:
    params, _ = ready(dit(TOP_K, shared=SHARED))
    specs = flatten(param_specs(params, Rules()))
    assert specs["blocks/00-02/moe/experts/up/kernel"] == PartitionSpec(None, "expert", None, "model")
    assert specs["blocks/00-02/moe/shared/down/kernel"] == PartitionSpec(None, "model")
    assert specs["blocks/00-02/modulation/kernel"] == PartitionSpec()


@functools.cache
def gradients(**fields):
    model = dit(TOP_K, shared=SHARED, label_dropout=0.4, **fields)
    params, state = ready(dataclasses.replace(model, scan=True, remat="none"))

    def loss(params, key):
        out = model.apply(params, state, *noised(), key=key, return_plans=True)
        return jnp.square(out.prediction).sum() + sum(out.losses.values()), out.plans

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, jax.random.key(3))


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"scan": False}, {"remat": "full"}], ids=["unrolled", "remat"])
def test_remat_and_scan_change_nothing(fields: dict) -> None:
    (value, plans), gradient = gradients()
    (other_value, other_plans), other = gradients(**fields)
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    for layer, plan in plans.items():
        np.testing.assert_array_equal(plan.expert, other_plans[layer].expert)
    for name, leaf in flatten(gradient).items():
        np.testing.assert_allclose(leaf, flatten(other)[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_key_drops_labels_and_nothing_else() -> None:
    model = dit(TOP_K, label_dropout=0.5)
    plain = run(model)
    np.testing.assert_array_equal(plain.prediction, run(model).prediction)
    x, time, label = noised()
    null = run(model, given=(x, time, jnp.full_like(label, 3))).prediction
    seen = set()
    for seed in range(8):
        dropped = run(model, jax.random.key(seed)).prediction
        for example in range(2):
            kinds = {"kept": plain.prediction[example], "null": null[example]}
            found = [kind for kind, value in kinds.items() if np.allclose(dropped[example], value, atol=1e-5)]
            assert len(found) == 1
            seen |= set(found)
    assert seen == {"kept", "null"}
    assert sorted(plain.losses) == ["balance"] and plain.metrics["block_02/load"].shape == (3,)


@pytest.mark.slow
def test_bfloat16_is_the_activations_dtype_only() -> None:
    model = dit(TOP_K | {"num_experts": 2}, shared=SHARED, dtype="bfloat16")
    out = run(model)
    assert out.prediction.dtype == jnp.float32
    exact = run(dataclasses.replace(model, dtype="float32")).prediction
    assert not np.array_equal(out.prediction, exact)
    np.testing.assert_allclose(out.prediction, exact, atol=0.1 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"patch_size": 3}, "patch_size=3 does not divide image_size=8; resize the pictures to 6 or 9"),
        ({"num_heads": 3}, "num_heads=3 does not divide dim=8"),
        ({"moe_layers": "last1"}, "needs moe="),
        ({"dim": 6}, "multiple of 4"),
        ({"label_dropout": 1.5}, r"label_dropout=1.5 must lie in \[0, 1\]"),
        ({"depht": 4}, "Did you mean 'depth'"),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
    ],
)
def test_a_model_that_cannot_be_is_refused_when_it_is_built(fields: dict, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        dit(**fields)


def test_a_mixture_needs_a_place() -> None:
    with pytest.raises(SpecError, match="say where, such as 'all'"):
        dit(TOP_K, moe_layers="none")
    assert dit(TOP_K, moe_layers="every2").moe_indices == (1,)


def test_inputs_that_do_not_fit_are_refused_before_compilation() -> None:
    model = dit()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    x, time, label = noised()

    def ask(x, label):
        return jax.eval_shape(lambda p, s: model.apply(p, s, x, time, label), *shapes)

    with pytest.raises(SpecError, match=r"must be \[8, 8, 3\].*found \[8, 6, 3\]"):
        ask(x[:, :, :6], label)
    with pytest.raises(SpecError, match="label 3 is the null label, which a model with label_dropout=0 never learned"):
        ask(x, jnp.asarray([0, 3], jnp.int32))
    with pytest.raises(SpecError, match="label -1 is out of range; classes are 0 to 2"):
        ask(x, jnp.asarray([0, -1], jnp.int32))
    grouped = dataclasses.replace(dit(TOP_K).moe, group_size=8)
    model = dataclasses.replace(dit(), moe=grouped)
    with pytest.raises(SpecError, match="12 tokens of 3 pictures of 4 tokens; use a batch that is a multiple of 2"):
        jax.eval_shape(lambda: model.apply(*model.init(jax.random.key(0)), *noised(3)))
