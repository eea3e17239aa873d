"""The library call: any tree, names by regex, reports, every allocation, the update in order, and what bad input gets."""

import warnings

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moejax.compress
from moejax.compress.compress import compress
from moejax.compress.statistics import from_rows
from moejax.compress.svd_llm import SvdLlm
from moejax.compress.weights import materialise
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank

DIM = 24


def array(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def mlp(depth=3):
    """A plain tree, as of a Flax model."""
    params = {f"Dense_{i}": {"kernel": array(i, DIM, DIM), "bias": array(10 + i, DIM)} for i in range(depth)}
    return params | {"embedding": array(99, 5, DIM), "head": {"kernel": array(100, DIM, 3)}}


def run(params, x, *, seen=None):
    """The model of `mlp`, in float64; `seen` fills with the inputs of every kernel."""
    for name in sorted(name for name in params if name.startswith("Dense")):
        if seen is not None:
            seen[f"{name}/kernel"] = x
        node = params[name]["kernel"]
        kernel = np.asarray(node.materialise() if hasattr(node, "materialise") else node, np.float64)
        x = np.tanh(x @ kernel / 5 + np.asarray(params[name]["bias"], np.float64))
    return x


X = np.random.default_rng(7).normal(size=(200, DIM))


def collect(params, names):
    seen = {}
    run(params, X, seen=seen)
    return {name: from_rows(seen[name]) for name in names}


NAMES = [f"Dense_{i}/kernel" for i in range(3)]


def test_a_plain_tree():
    params = mlp()
    made = moejax.compress.compress(params, method="svd", budget=0.5, only="Dense")
    assert set(made.params) == set(params)
    leaf = made.params["Dense_1"]["kernel"]
    assert isinstance(leaf, LowRank) and leaf.u.dtype == jnp.float32
    p, s, q = np.linalg.svd(np.asarray(params["Dense_1"]["kernel"], np.float64))
    np.testing.assert_allclose(leaf.materialise(), p[:, :6] * s[:6] @ q[:6], atol=1e-5)
    assert made.params["Dense_1"]["bias"] is params["Dense_1"]["bias"]
    assert made.params["head"]["kernel"] is params["head"]["kernel"]
    (row,) = [row for row in made.report.weights if row.name == "Dense_1/kernel"]
    assert (row.shape, row.ranks) == ((DIM, DIM), (6,))
    assert (row.params_before, row.params_after) == (576, 288)
    assert (row.flops_before, row.flops_after) == (1152, 576)
    expected = np.sqrt(np.sum(s[6:] ** 2) / np.sum(s**2))
    np.testing.assert_allclose([row.own_error, row.plain_error], expected, rtol=1e-5)
    assert row.seconds > 0
    assert "Dense_1/kernel [24, 24]: rank 6, 576 -> 288" in str(made.report)
    assert made.report.to_dict()["weights"][0]["name"] == "Dense_0/kernel"


def test_what_is_found_by_default():
    params = mlp() | {"moe": {"experts": {"up": Dense(array(1, 2, 9, 9)), "up_bias": array(2, 2, 9)}}}
    made = compress(params, method="svd", budget=0.6)
    assert [row.name for row in made.report.weights] == [*NAMES, "head/kernel", "moe/experts/up"]


def test_names_are_in_natural_order():
    params = {f"layer_{i}": {"kernel": array(i, 8, 8)} for i in (10, 2, 1)}
    made = compress(params, method="svd", budget=0.6)
    assert [row.name for row in made.report.weights] == [f"layer_{i}/kernel" for i in (1, 2, 10)]


def test_ranks_per_expert():
    kernels = np.stack([np.asarray(array(0, 12, 12)), 1e-3 * np.asarray(array(1, 12, 12))])
    made = compress({"up": Dense(jnp.asarray(kernels))}, method="svd", budget=0.5, allocation="spectrum")
    leaf = made.params["up"]
    assert leaf.ranks == (5, 1)  # six ranks of 24 are half of 288; the small expert gets what it must
    assert made.report.after == leaf.num_params() == 144
    made = compress({"up": Dense(jnp.asarray(kernels))}, method="svd", budget=0.5)
    assert made.params["up"].ranks is None and made.params["up"].u.shape == (2, 12, 3)


def test_frozen_dicts_lists_and_half_precision():
    tree = flax.core.freeze({"a": [{"kernel": array(0, 9, 9).astype(jnp.bfloat16)}], "b": array(1, 3)})
    made = compress(tree, method="svd", budget=0.5)
    assert isinstance(made.params, flax.core.FrozenDict)
    leaf = made.params["a"][0]["kernel"]
    assert leaf.u.dtype == jnp.bfloat16
    np.testing.assert_array_equal(materialise(made.params)["a"][0]["kernel"], leaf.materialise())


def test_materialise():
    params = {"a": Dense(array(0, 8, 8)), "b": {"kernel": array(1, 8, 8), "bias": array(2, 8)}}
    made = compress(params, method="svd", budget=0.5)
    back = materialise(made.params, like=params)
    assert isinstance(back["a"], Dense)
    assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, params)
    assert isinstance(materialise(made.params)["a"], jax.Array)


@pytest.mark.parametrize("method", ["svd", {"name": "svd"}, SvdLlm()])
def test_methods_by_name_config_or_spec(method):
    made = compress(mlp(), method=method, budget=0.4, statistics=collect(mlp(), NAMES), only="Dense")
    assert made.report.method == (
        method if isinstance(method, str) else "svd" if isinstance(method, dict) else "svd_llm"
    )


def test_by_spectrum_beats_uniform_in_the_sum_of_relative_errors():
    params = mlp()
    params["Dense_0"]["kernel"] = params["Dense_0"]["kernel"][:, :3] @ array(5, 3, DIM)
    lost = {
        allocation: sum(
            row.own_error**2
            for row in compress(params, method="svd", budget=0.5, only="Dense", allocation=allocation).report.weights
        )
        for allocation in ("uniform", "spectrum")
    }
    assert lost["spectrum"] < 0.8 * lost["uniform"]


def test_by_fisher():
    params, statistics = mlp(), collect(mlp(), NAMES)
    for i, name in enumerate(NAMES):
        scale = 100.0 if i == 1 else 1.0
        statistics[name] = statistics[name].replace(examples=np.float64(4), fisher_rows=np.full(DIM, scale))
    made = compress(params, method="svd", budget=0.5, statistics=statistics, only="Dense", allocation="fisher")
    ranks = [row.ranks[0] for row in made.report.weights]
    assert ranks[1] is None or ranks[1] > max(ranks[0], ranks[2])
    with pytest.raises(SpecError, match="'fisher_rows' of 'Dense_0/kernel', but 'examples' was not collected"):
        compress(params, method="svd", budget=0.5, statistics=collect(params, NAMES), only="Dense", allocation="fisher")


def test_by_sensitivity():
    params, calls = mlp(), []
    wanted = np.asarray(params["Dense_2"]["kernel"])

    def loss(tree):  # Dense_2 alone matters
        calls.append(1)
        node = tree["Dense_2"]["kernel"]
        return np.sum((np.asarray(node.materialise() if hasattr(node, "materialise") else node) - wanted) ** 2)

    made = compress(params, method="svd", budget=0.5, only="Dense", allocation="sensitivity", loss=loss)
    assert len(calls) == 1 + 3 * 4  # ranks 1, 3, 6 and 8 of each, and the whole
    ranks = {row.name: row.ranks[0] for row in made.report.weights}
    assert ranks["Dense_2/kernel"] is None
    assert ranks["Dense_0/kernel"] + ranks["Dense_1/kernel"] == 6  # 12 (24 + 24) and 576 are half


def test_flops_of_a_bank_count_a_mean_expert():
    params = {"up": Dense(array(0, 4, 20, 20)), "q": Dense(array(1, 20, 20))}
    made = compress(params, method="svd", budget=0.5, unit="flops")
    assert made.report.before == 2 * 400 + 2 * 400
    assert sum(row.flops_after for row in made.report.weights) <= made.report.allowed == 800


def test_the_update_in_order_lowers_every_loss():
    params, statistics = mlp(), collect(mlp(), NAMES)
    plain = compress(params, method="svd_llm", budget=0.4, statistics=statistics, only="Dense")
    asked = []

    def watch(tree, names):
        asked.append((list(names), sum(isinstance(tree[n.split("/")[0]]["kernel"], LowRank) for n in NAMES)))
        return collect(tree, names)

    made = compress(params, method="svd_llm", budget=0.4, statistics=statistics, only="Dense", sequential=watch)
    assert asked == [([name], 3) for name in NAMES]
    np.testing.assert_array_equal(made.params["Dense_1"]["kernel"].u, plain.params["Dense_1"]["kernel"].u)
    # On the inputs that the layer really gets now, its loss is below that of the factors before the update.
    seen = {}
    run(made.params, X, seen=seen)
    for name in NAMES[1:]:
        layer = name.split("/")[0]
        kernel = np.asarray(params[layer]["kernel"], np.float64)
        lost = [
            np.linalg.norm(seen[name] @ (kernel - np.asarray(one.params[layer]["kernel"].materialise(), np.float64)))
            for one in (plain, made)
        ]
        assert lost[1] < lost[0]
        row = next(row for row in made.report.weights if row.name == name)
        np.testing.assert_allclose(row.own_error, lost[1] / np.linalg.norm(seen[name] @ kernel), rtol=1e-4)
    with pytest.raises(SpecError, match="Svd has no closed-form update"):
        compress(params, method="svd", budget=0.4, only="Dense", sequential=watch)


def bad(match, **changes):
    options = {"method": "svd_llm", "budget": 0.5, "only": "Dense", "statistics": collect(mlp(), NAMES)} | changes
    with pytest.raises(SpecError, match=match):
        compress(mlp(), **options)


def test_budgets_that_cannot_be_met():
    bad(r"budget of 34.56 params .*smallest reachable is 144 \(budget=0.08333\)", budget=0.02)
    bad("budget=0.0 must be positive", budget=0.0)
    assert compress(mlp(), method="svd", budget=1.5, only="Dense").report.after == 3 * 576


def test_statistics_that_do_not_fit():
    good = collect(mlp(), NAMES)
    bad("needs the statistics second_moment of 'Dense_0/kernel', but they have no such entry.* Did you mean", statistics={n + "s": s for n, s in good.items()})  # fmt: skip
    bad("no such entry", statistics=None)
    other = good | {"Dense_1/kernel": from_rows(np.ones((30, 5)))}
    bad(
        r"'Dense_1/kernel': second_moment has shape \(5, 5\), but the weight of shape \(24, 24\) needs \(24, 24\)",
        statistics=other,
    )
    lacking = good | {"Dense_1/kernel": good["Dense_1/kernel"].replace(second_moment=None)}
    bad(
        "needs the statistics 'second_moment' of 'Dense_1/kernel', but 'second_moment' was not collected",
        statistics=lacking,
    )
    broken = good["Dense_2/kernel"].second_moment.copy()
    broken[3, 3] = np.inf
    bad("'Dense_2/kernel': second_moment holds NaN or infinite", statistics=good | {"Dense_2/kernel": good["Dense_2/kernel"].replace(second_moment=broken)})  # fmt: skip
    rows = from_rows(np.ones((2, 30, 9)))
    rows.second_moment[1] = np.nan
    with pytest.raises(SpecError, match=r"'up': second_moment of expert 1 holds NaN"):
        compress({"up": Dense(array(0, 2, 9, 9))}, method="svd_llm", budget=0.6, statistics={"up": rows})


def test_too_few_rows_warn_with_the_numbers():
    statistics = {name: from_rows(X[:4]) for name in NAMES}
    with pytest.warns(UserWarning, match=r"Dense_\d/kernel: 4 calibration rows for rank 6") as told:
        made = compress(mlp(), method="svd_llm", budget=0.5, statistics=statistics, only="Dense")
    assert len(told) == len(made.report.warnings) == 3
    bank, rows = {"up": Dense(array(0, 3, 12, 12))}, np.random.default_rng(0).normal(size=(3, 20, 12))
    rows[1, 2:] = 0
    with pytest.warns(
        UserWarning, match=r"up, expert 1: 2 calibration rows for rank 3 \(1 of 3 experts have too few\)"
    ):
        compress(bank, method="svd_llm", budget=0.5, statistics={"up": from_rows(rows)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compress(mlp(), method="svd_llm", budget=0.5, statistics=collect(mlp(), NAMES), only="Dense")
        compress(mlp(), method="svd", budget=0.5, statistics=statistics, only="Dense")  # needs no rows


def test_other_mistakes():
    bad("method.name='svdllm' is no method.* Did you mean 'svd_llm'", method="svdllm")
    bad("unit='parameters' is not allowed", unit="parameters")
    bad("allocation='spectral' is not allowed.* Did you mean 'spectrum'", allocation="spectral")
    bad("SvdLlm does not learn ranks", allocation="learned")
    bad("give loss=f", allocation="sensitivity")
    bad("finds no kernel", only="Conv")
    bad("is not a regular expression", only="(")
    bad("SVDiff makes nothing smaller", method="svdiff")
    bad("whole banks", method="lorap_channels")
    bad("leave them out", method="lorap_channels", unit="flops")
    params = mlp()
    params["Dense_0"]["kernel"] = params["Dense_0"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(SpecError, match="Dense_0/kernel: the kernel holds NaN"):
        compress(params, method="svd", budget=0.5)
    small = compress(mlp(), method="svd", budget=0.5, only="Dense").params
    with pytest.raises(SpecError, match="Dense_0/kernel is a LowRank already"):
        compress(small, method="svd", budget=0.5, only="Dense")
    with pytest.raises(SpecError, match="stacked over layers"):
        compress({"up": Dense(array(0, 2, 2, 4, 4))}, method="svd", budget=0.5)


def test_a_bank_alone():
    bank = {"up": array(0, 2, 6, 10), "down": array(1, 2, 10, 6)}
    rows = {"up": from_rows(np.asarray(array(2, 2, 30, 6))), "down": from_rows(np.asarray(array(3, 2, 30, 10)))}
    made = compress(bank, method="lorap_channels", budget=0.5, statistics=rows, only="up|down")
    assert made.params["up"].kernel.shape == (2, 6, 5)
    assert made.report.after == made.report.allowed == 120
    assert made.report.weights[0].plain_error is None
