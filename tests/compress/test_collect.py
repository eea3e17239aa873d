"""Statistics against NumPy on the same rows: by plans, layouts, transformations of the function, and devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.collect import collect
from moejax.compress.statistics import KINDS
from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.spec import build_method
from moejax.dispatch.assignment import served_slots
from moejax.layers.moe import MoE
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from moejax.models.vit import VisionTransformer

FORWARD = ("second_moment", "absolute", "output")
DIM, TOKENS = 6, 8


def moe(router, **fields):
    experts = {"name": "mlp", "expert_dim": 5}
    return MoE(router=build_method("routing", router), experts=build_method("experts", experts), **fields)


def layer_params(layer, seed=0):
    params, state = layer.init(jax.random.key(seed), DIM)
    # Biases that are far from zero: behind them padding is not zero any more.
    bank = {n: leaf if isinstance(leaf, Dense) else 0.5 + jnp.abs(leaf) for n, leaf in params["experts"].items()}
    return params | {"experts": bank}, state


def rows_of(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def rows_by_expert(layer, params, state, x):
    """The rows that each expert really computes, from the plan, one choice at a time."""
    plan = layer.router.route(params["router"], state, jnp.asarray(x), key=None, token_ids=None).plan
    x = np.asarray(x, np.float64)
    found = [[] for _ in range(layer.router.num_experts)]
    if hasattr(plan, "dispatch"):  # slot mixtures
        weight = np.asarray(plan.dispatch, np.float64)
        for expert in range(len(found)):
            found[expert] = [w @ x[g] for g in range(len(x)) for w in weight[g, :, expert].T]
    elif hasattr(plan, "token"):
        for g, e, c in np.ndindex(*plan.token.shape):
            found[e].append(x[g, int(plan.token[g, e, c])])
    else:
        served = np.asarray(served_slots(plan)) >= 0 if plan.capacity is not None else np.asarray(plan.expert) >= 0
        for g, s, k in zip(*np.nonzero(served), strict=True):
            found[int(plan.expert[g, s, k])].append(x[g, s])
    return [np.array(rows, np.float64).reshape(-1, DIM) for rows in found]


def check_bank(found, name, inputs, kernel):
    """All sums of one weight of a bank against those over `inputs`, a list of rows per expert."""
    np.testing.assert_array_equal(found.count, [len(rows) for rows in inputs])
    for expert, rows in enumerate(inputs):
        np.testing.assert_allclose(found.second_moment[expert], rows.T @ rows, rtol=1e-4, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(found.absolute[expert], np.abs(rows).sum(0), rtol=1e-4, atol=1e-4)
        outputs = rows @ np.asarray(kernel[expert], np.float64)
        np.testing.assert_allclose(found.output_sum[expert], outputs.sum(0), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.output_square[expert], (outputs**2).sum(0), rtol=1e-3, atol=1e-3)


ROUTERS = {
    "dropless": ({"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "capacity_factor": None}, {}),
    "capacity": ({"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "capacity_factor": 0.6}, {}),
    "einsum": (
        {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "capacity_factor": 0.8},
        {"dispatch": "einsum"},
    ),
    "roomy": ({"name": "top_k", "num_experts": 4, "num_selected_experts": 1, "capacity_factor": 3.0}, {}),
    "cut rows": (
        {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "capacity_factor": 0.6},
        {"dispatch": "ragged"},
    ),
    "expert choice": ({"name": "expert_choice", "num_experts": 4, "capacity_factor": 1.5}, {}),
    "soft": ({"name": "soft", "num_experts": 3, "num_slots": 2}, {}),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case, marks=[] if case in ("dropless", "soft") else [pytest.mark.slow]) for case in ROUTERS],
)
def test_sums_are_those_of_the_tokens_that_each_expert_really_computes(case):
    router, fields = ROUTERS[case]
    layer = moe(router, **fields)
    params, state = layer_params(layer)
    batches = [rows_of(seed, 2, TOKENS, DIM) for seed in (1, 2)]
    found = collect(lambda p, x: layer.apply(p, state, x).tokens, params, batches, (*FORWARD, "rows"))
    inputs = [
        np.concatenate(both) for both in zip(*(rows_by_expert(layer, params, state, x) for x in batches), strict=True)
    ]
    bank = {
        name: np.asarray(leaf.kernel if isinstance(leaf, Dense) else leaf, np.float64)
        for name, leaf in params["experts"].items()
    }
    check_bank(found.statistics["experts/up"], "up", inputs, bank["up"])
    hidden = [gelu(rows @ bank["up"][e] + bank["up_bias"][e]) for e, rows in enumerate(inputs)]
    check_bank(found.statistics["experts/down"], "down", hidden, bank["down"])
    assert found.examples == 4
    everything = np.concatenate(batches).reshape(-1, DIM)
    read = found.statistics["router"]
    assert read.count == len(everything)
    np.testing.assert_allclose(read.second_moment, everything.T @ everything, rtol=1e-4, atol=1e-4)
    for expert, rows in enumerate(inputs):
        sampled = found.statistics["experts/up"].rows[expert]
        sampled = sampled[(sampled != 0).any(-1)]
        assert len(sampled) == len(rows)  # there are fewer than the number asked for, so all are taken
        distance = np.abs(sampled[:, None] - rows[None]).max(-1)
        assert distance.min(0).max(initial=0) < 1e-5 and distance.min(1).max(initial=0) < 1e-5


def test_a_bank_without_its_first_weight_still_knows_the_padding():
    layer = moe(ROUTERS["roomy"][0])
    params, state = layer_params(layer)
    x = rows_of(3, 1, TOKENS, DIM)
    found = collect(lambda p, x: layer.apply(p, state, x).tokens, params, [x], ("second_moment",), only="down$")
    assert found.statistics["experts/down"].count.sum() == TOKENS
    assert set(found.statistics) == {"experts/down", "router"}


def test_a_gated_bank():
    layer = MoE(
        router=build_method("routing", ROUTERS["capacity"][0]),
        experts=build_method("experts", {"name": "swiglu", "expert_dim": 5}),
    )
    params, state = layer.init(jax.random.key(0), DIM)
    x = rows_of(4, 2, TOKENS, DIM)
    found = collect(lambda p, x: layer.apply(p, state, x).tokens, params, [x], FORWARD).statistics
    inputs = rows_by_expert(layer, params, state, x)
    kernels = {name: np.asarray(leaf.kernel, np.float64) for name, leaf in params["experts"].items()}
    for name in ("gate", "up"):
        check_bank(found[f"experts/{name}"], name, inputs, kernels[name])
    silu = lambda z: z / (1 + np.exp(-z))  # noqa: E731
    hidden = [silu(rows @ kernels["gate"][e]) * (rows @ kernels["up"][e]) for e, rows in enumerate(inputs)]
    check_bank(found["experts/down"], "down", hidden, kernels["down"])


def test_sampled_rows_are_as_many_as_asked_for_per_batch_and_expert():
    layer = moe(ROUTERS["dropless"][0])
    params, state = layer_params(layer)
    batches = [rows_of(seed, 4, TOKENS, DIM) for seed in (1, 2, 3)]
    found = collect(lambda p, x: layer.apply(p, state, x).tokens, params, batches, ("rows",), num_rows=3).statistics
    assert found["experts/up"].rows.shape == (4, 9, DIM)
    assert found["router"].rows.shape == (9, DIM)
    counts = found["experts/up"].count
    real = (found["experts/up"].rows != 0).any(-1).sum(-1)
    assert (real == np.minimum(counts, 9)).all() or (real <= 9).all()
    everything = np.concatenate(batches).reshape(-1, DIM)
    distance = np.abs(found["router"].rows[:, None] - everything[None]).max(-1).min(1)
    assert distance.max() < 1e-6
    assert len({row.tobytes() for row in found["router"].rows}) == 9


def merged_layer():
    layer = moe({"name": "merge", "num_experts": 3})
    return layer, *layer_params(layer)


def test_where_parameters_are_mixed_a_row_counts_by_the_share_of_the_expert():
    layer, params, state = merged_layer()
    x = rows_of(5, 2, TOKENS, DIM)
    found = collect(lambda p, x: layer.apply(p, state, x).tokens, params, [x], ("second_moment",)).statistics
    weight = np.asarray(layer.router.route(params["router"], state, jnp.asarray(x), key=None).plan.weight)
    np.testing.assert_allclose(found["experts/up"].count, TOKENS * weight.sum(0), rtol=1e-5)
    moments = np.einsum("gsd,gsf->gdf", x, x)
    wanted = np.einsum("ge,gdf->edf", weight, moments)
    np.testing.assert_allclose(found["experts/up"].second_moment, wanted, rtol=1e-4, atol=1e-4)


def test_rows_of_mixed_experts_are_refused():
    layer, params, state = merged_layer()
    with pytest.raises(SpecError, match="'rows' cannot be sampled where a router mixes"):
        collect(lambda p, x: layer.apply(p, state, x).tokens, params, [rows_of(5, 2, TOKENS, DIM)], ("rows",))


# Plain functions of two kernels: every transformation, by hand.


def two_kernels():
    return {"first": Dense(jnp.asarray(rows_of(0, 3, 4))), "deep": {"second": Dense(jnp.asarray(rows_of(1, 4, 2)))}}


def chain(params, x):
    return params["deep"]["second"].matmul(jnp.tanh(params["first"].matmul(x)))


FORMS = {
    "plain": chain,
    "jit": jax.jit(chain),
    "remat": jax.checkpoint(chain),
    "vmap": lambda p, x: jax.vmap(lambda row: chain(p, row))(x),
    "two calls": lambda p, x: (chain(p, x[:3]), chain(p, x[3:])),
    "map": lambda p, x: jax.lax.map(lambda row: chain(p, row), x),
    "integers beside": lambda p, x: {"y": chain(p, x), "index": jnp.argmax(x, -1)},
    "bfloat16": None,
}


@pytest.mark.parametrize("form", FORMS)
def test_sums_do_not_depend_on_how_the_function_is_written(form):
    function = FORMS[form] or (lambda p, x: chain(p, x.astype(jnp.bfloat16)))
    batches = [rows_of(seed, 5, 3) for seed in (2, 3)]
    batches[0][1] = 0.0  # an empty row does not count
    found = collect(function, two_kernels(), batches, FORWARD).statistics
    assert set(found) == {"first", "deep/second"}
    x = np.concatenate(batches).astype(np.float64)
    kernel = np.asarray(two_kernels()["first"].kernel, np.float64)
    exact = {"rtol": 3e-2, "atol": 3e-2} if form == "bfloat16" else {"rtol": 1e-5, "atol": 1e-5}
    assert found["first"].count == 9
    np.testing.assert_allclose(found["first"].second_moment, x.T @ x, **exact)
    np.testing.assert_allclose(found["first"].absolute, np.abs(x).sum(0), **exact)
    np.testing.assert_allclose(found["first"].output_sum, (x @ kernel).sum(0), **exact)
    np.testing.assert_allclose(found["first"].output_square, ((x @ kernel) ** 2).sum(0), **exact)
    hidden = np.tanh(x @ kernel)
    np.testing.assert_allclose(found["deep/second"].second_moment, hidden.T @ hidden, **exact)
    assert found["deep/second"].second_moment.dtype == np.float64


@pytest.mark.slow
def test_stacked_layers_keep_their_axis_and_equal_the_single_ones():
    model = VisionTransformer(image_size=8, patch_size=4, dim=8, depth=3, num_heads=2, mlp_dim=16, num_classes=3)
    params, state = model.init(jax.random.key(0))
    images = rows_of(6, 4, 8, 8, 3)

    def of(tree, router_state):
        apply = lambda p, x: model.apply(p, router_state, x).features  # noqa: E731
        return collect(apply, tree, [images], FORWARD, only="blocks").statistics

    stacked, single = of(params, state), of(split_segments(params), split_segments(state))
    assert {name.split("/")[1] for name in stacked} == {"00-02"}
    assert {name.split("/")[1] for name in single} == {"00", "01", "02"}
    for name, own in stacked.items():
        for layer in range(3):
            for field, value in dataclasses.asdict(own).items():
                if value is not None:
                    other = getattr(single[name.replace("00-02", f"{layer:02d}")], field)
                    np.testing.assert_allclose(value[layer], other, rtol=1e-4, atol=1e-4, err_msg=f"{name} {field}")
    assert single["blocks/01/feed_forward/up"].count == 4 * 5


def test_a_low_rank_leaf_is_observed_like_any_other():
    u, v = rows_of(1, 3, 2), rows_of(2, 2, 4)
    x = rows_of(3, 7, 3)
    found = collect(lambda p, x: p["w"].matmul(x), {"w": LowRank(jnp.asarray(u), jnp.asarray(v))}, [x], FORWARD)
    np.testing.assert_allclose(found.statistics["w"].second_moment, x.T @ x, rtol=1e-5)
    np.testing.assert_allclose(found.statistics["w"].output_sum, (x @ u @ v).sum(0), rtol=1e-4, atol=1e-5)


# What goes wrong says so.


def test_a_weight_that_the_result_does_not_depend_on_is_named():
    def cut(params, x):
        return chain(params, x) * 0.0 + jax.lax.stop_gradient(chain(params, x))

    assert collect(cut, two_kernels(), [rows_of(1, 4, 3)], ("absolute",)).statistics["first"].count == 4
    with pytest.raises(SpecError, match="deep/second: the result of the function does not depend"):
        collect(lambda p, x: p["first"].matmul(x), two_kernels(), [rows_of(1, 4, 3)], ("absolute",))


def test_rows_of_a_weight_that_is_used_twice_are_refused():
    with pytest.raises(SpecError, match="is used 2 times in one call"):
        collect(FORMS["two calls"], two_kernels(), [rows_of(1, 5, 3)], ("rows",))


def test_sums_that_are_not_finite_stop_with_the_name_of_the_layer():
    broken = rows_of(1, 5, 3)
    broken[2, 1] = np.nan
    with pytest.raises(SpecError, match=r"first: \w+ of batch 1 is not finite"):
        collect(chain, two_kernels(), [rows_of(1, 5, 3), broken], ("second_moment",), only="first")
    huge = two_kernels() | {"first": Dense(jnp.full((3, 4), jnp.inf))}
    with pytest.raises(SpecError, match="deep/second: .*not finite"):
        collect(
            lambda p, x: p["deep"]["second"].matmul(p["first"].matmul(x)),
            huge,
            [rows_of(1, 5, 3)],
            ("absolute",),
            only="deep",
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ("second_momentum",)}, "Did you mean 'second_moment'"),
        ({"kinds": ()}, "kinds is empty"),
        ({"only": "frist"}, "Did you mean 'first'"),
        ({"only": "("}, "no regular expression"),
        ({"batches": []}, "no example"),
        ({"passes": 2, "batches": iter([])}, "can be read again"),
        ({"kinds": ("fisher",), "chunk": 0}, "chunk=0"),
        ({"gradient_batches": 0}, "gradient_batches=0"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"batches": [rows_of(1, 4, 3)], "kinds": ("absolute",)} | change
    with pytest.raises(SpecError, match=message):
        collect(lambda p, x: jnp.sum(chain(p, x)), two_kernels(), **arguments)


def test_the_report_counts_bytes():
    found = collect(chain, two_kernels(), [rows_of(1, 4, 3)], ("second_moment",), only="first")
    assert found.nbytes == {"first": 8 * (3 * 3 + 1)}
    assert found.report()["bytes"] == 80 and found.report()["examples"] == 4


def test_every_kind_has_its_fields():
    for kinds in (FORWARD, ("rows",)):
        own = collect(chain, two_kernels(), [rows_of(1, 4, 3)], kinds).statistics["first"]
        given = {name for name, value in dataclasses.asdict(own).items() if value is not None}
        assert given == {field for kind in kinds for field in KINDS[kind]}
