"""Laws of every compressor: the whole rank is the identity, the tail is the error, the best is the best, the budget is met."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.compress import compress
from moejax.compress.contract import BankMethod, KernelMethod
from moejax.compress.statistics import KINDS, LeafStatistics
from moejax.compress.weights import materialise
from moejax.core.errors import SpecError
from moejax.core.spec import examples
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from tests.compress.kernel_data import case, direct_optimum, own_norm

ALL = {f"{name}-{i}": (name, spec) for i, (name, spec) in enumerate(examples("compress"))}
KERNEL = {key: value for key, value in ALL.items() if hasattr(value[1], "factorise")}
BANK = {key: value for key, value in ALL.items() if hasattr(value[1], "compress_bank")}
OPTIMAL = {key for key, (name, _) in KERNEL.items() if name not in ("randomised_svd", "maestro")}
SHAPES = [(6, 9), (9, 6), (7, 7)]
E, D, F = 3, 8, 12


def test_every_method_is_of_one_kind():
    for name, spec in ALL.values():
        kinds = [hasattr(spec, method) for method in ("factorise", "compress_bank", "convert")]
        assert sum(kinds) == 1, name
        if hasattr(spec, "needs"):
            assert set(spec.needs) <= set(KINDS)
    assert {"svd", "svd_llm", "fwsvd", "gfwsvd"} <= {name for name, _ in KERNEL.values()}
    assert all(isinstance(spec, KernelMethod) for _, spec in KERNEL.values())
    assert all(isinstance(spec, BankMethod) for _, spec in BANK.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", KERNEL)
def test_the_whole_rank_is_the_identity(key, shape):
    _, spec = KERNEL[key]
    data = case(*shape)
    whole = spec.factorise(data.kernel, data.statistics)
    np.testing.assert_allclose(whole.u @ whole.v, data.kernel, atol=1e-9)
    assert whole.spectrum.shape[0] <= min(shape)
    above = spec.factorise(data.kernel, data.statistics, largest_rank=100)
    np.testing.assert_allclose(above.u @ above.v, data.kernel, atol=1e-9)


@pytest.mark.parametrize("data", ["full", "deficient", "zero", "skewed"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", KERNEL)
def test_the_tail_is_the_error(key, shape, data):
    name, spec = KERNEL[key]
    data = case(*shape, data=data)
    made = spec.factorise(data.kernel, data.statistics)
    assert np.all(np.diff(made.spectrum) <= 1e-12 * made.spectrum[0])
    whole = own_norm(name, spec, data, data.kernel)
    for rank in range(made.spectrum.shape[0] + 1):
        approximation = made.u[:, :rank] @ made.v[:rank]
        assert np.all(np.isfinite(approximation))
        assert np.linalg.norm(approximation) <= 100 * np.linalg.norm(data.kernel)
        tail = np.sqrt(np.sum(made.spectrum[rank:] ** 2) + made.rest)
        expected = own_norm(name, spec, data, data.kernel - approximation)
        np.testing.assert_allclose(tail, expected, rtol=1e-5, atol=1e-7 * whole)
        np.testing.assert_allclose(
            spec.error(data.kernel, approximation, data.statistics), expected, rtol=1e-6, atol=1e-7 * whole
        )
    np.testing.assert_allclose(made.u @ made.v, data.kernel, atol=1e-6)


@pytest.mark.parametrize("data", ["full", "deficient", "skewed"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", sorted(OPTIMAL))
def test_nothing_of_the_rank_is_nearer(key, shape, data):
    name, spec = KERNEL[key]
    data, rank = case(*shape, data=data), 2
    made = spec.factorise(data.kernel, data.statistics)
    best = own_norm(name, spec, data, data.kernel - made.u[:, :rank] @ made.v[:rank])
    slack = 1e-9 * own_norm(name, spec, data, data.kernel)
    assert best <= own_norm(name, spec, data, data.kernel - direct_optimum(data.kernel, rank)) + slack
    draw = np.random.default_rng(5)
    for candidate in range(200):
        if candidate % 2:  # a random projection of the kernel
            basis = np.linalg.qr(draw.normal(size=(shape[1], rank)))[0]
            other = data.kernel @ basis @ basis.T
        else:  # a neighbour of the answer
            size = 10.0 ** -draw.integers(1, 5)
            u = made.u[:, :rank] * (1 + size * draw.normal(size=made.u[:, :rank].shape))
            other = u @ (made.v[:rank] + size * draw.normal(size=made.v[:rank].shape))
        assert best <= own_norm(name, spec, data, data.kernel - other) + slack


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("key", KERNEL)
def test_a_largest_rank_cuts_the_same_answer(key, shape):
    name, spec = KERNEL[key]
    data = case(*shape)
    made = spec.factorise(data.kernel, data.statistics, largest_rank=3)
    assert made.u.shape == (shape[0], 3) and made.v.shape == (3, shape[1])
    error = own_norm(name, spec, data, data.kernel - made.u @ made.v)
    np.testing.assert_allclose(np.sqrt(made.rest), error, rtol=1e-5)
    whole = spec.factorise(data.kernel, data.statistics)
    other = own_norm(name, spec, data, data.kernel - whole.u[:, :3] @ whole.v[:3])
    np.testing.assert_allclose(error, other, rtol=1e-9 if key in OPTIMAL else 0.05)


def tree():
    """A bank and an attention kernel, their statistics by name."""
    cases = {"moe/experts/up": [case(D, F, seed=s) for s in range(E)]}
    cases["moe/experts/down"] = [case(F, D, seed=10 + s) for s in range(E)]
    cases["attention/query"] = [case(D, D, seed=20)]
    stacked = {name: jnp.asarray(np.stack([c.kernel for c in parts]), jnp.float32) for name, parts in cases.items()}
    statistics = {name: together([c.statistics for c in parts]) for name, parts in cases.items()}
    statistics["attention/query"] = cases["attention/query"][0].statistics
    params = {
        "attention": {"query": Dense(stacked["attention/query"][0]), "bias": jnp.zeros((2, D))},
        "moe": {
            "router": {"kernel": jnp.asarray(np.random.default_rng(3).normal(size=(D, E)), jnp.float32)},
            "experts": {
                "up": Dense(stacked["moe/experts/up"]),
                "up_bias": jnp.zeros((E, F)),
                "down": Dense(stacked["moe/experts/down"]),
                "down_bias": jnp.zeros((E, D)),
            },
        },
    }
    return params, statistics


def together(parts):
    fields = {
        name: np.stack([getattr(p, name) for p in parts])
        for name in vars(parts[0])
        if getattr(parts[0], name) is not None
    }
    return LeafStatistics(**fields)


@pytest.mark.parametrize("unit", ["params", "flops"])
@pytest.mark.parametrize("key", KERNEL)
def test_the_budget_is_met(key, unit):
    name, spec = KERNEL[key]
    params, statistics = tree()
    for budget in (0.9, 0.5, 0.3):
        made = compress(params, method=spec, budget=budget, unit=unit, statistics=statistics)
        assert made.report.after <= made.report.allowed
        left = made.report.allowed - made.report.after
        counted = 0.0
        for row in made.report.weights:
            leaf = (
                made.params["attention"]["query"]
                if row.shape == (D, D)
                else made.params["moe"]["experts"][row.name.split("/")[-1]]
            )
            price = 1.0 if unit == "params" else 2.0 / len(row.ranks)
            counted += (
                sum(math.prod(row.shape[-2:]) if r is None else r * sum(row.shape[-2:]) for r in row.ranks) * price
            )
            assert isinstance(leaf, Dense) == (None in row.ranks)
            assert row.params_after == (leaf.kernel.size if None in row.ranks else leaf.num_params())
            step = sum(row.shape[-2:]) * price
            if None not in row.ranks and min(row.ranks) < (math.prod(row.shape[-2:]) - 1) // sum(row.shape[-2:]):
                assert left < step, (name, row)
        assert counted == pytest.approx(made.report.after)


@pytest.mark.parametrize("key", KERNEL)
def test_a_whole_budget_changes_nothing(key):
    params, statistics = tree()
    made = compress(params, method=KERNEL[key][1], budget=1.0, statistics=statistics)
    assert made.params["moe"]["experts"]["up"] is params["moe"]["experts"]["up"]
    assert made.report.after == made.report.before
    assert all(row.own_error == row.plain_error == 0 for row in made.report.weights)


@pytest.mark.parametrize("key", BANK)
def test_banks_meet_their_budget(key):
    name, spec = BANK[key]
    params, statistics = tree()
    statistics = {**statistics, "moe/router": case(D, F).statistics}
    made = compress(params, method=spec, budget=0.7, statistics=with_outputs(statistics, params), only="experts")
    assert made.report.after <= made.report.allowed, name
    for value in materialise(made.params)["moe"]["experts"].values():
        assert np.all(np.isfinite(np.asarray(value)))


def with_outputs(statistics, params):
    """The kind 'output' as well, which only banks need."""
    kernels = {name: np.asarray(params["moe"]["experts"][name].kernel, np.float64) for name in ("up", "down")}
    found = dict(statistics)
    for name, kernel in kernels.items():
        own = statistics[f"moe/experts/{name}"]
        y = np.einsum("end,edf->enf", own.rows, kernel)
        found[f"moe/experts/{name}"] = own.replace(output_sum=y.sum(1), output_square=(y**2).sum(1))
    return found


@pytest.mark.parametrize("key", BANK)
def test_banks_name_the_smallest_budget(key):
    params, statistics = tree()
    statistics = {**statistics, "moe/router": case(D, F).statistics}
    with pytest.raises(SpecError, match="smallest"):
        compress(params, method=BANK[key][1], budget=1e-3, statistics=with_outputs(statistics, params), only="experts")


@pytest.mark.parametrize("key", KERNEL)
def test_a_leaf_multiplies_as_its_factors(key):
    params, statistics = tree()
    made = compress(params, method=KERNEL[key][1], budget=0.4, statistics=statistics)
    leaf, row = made.params["moe"]["experts"]["up"], next(r for r in made.report.weights if r.name == "moe/experts/up")
    assert isinstance(leaf, LowRank)
    dense, kernel = np.asarray(leaf.materialise()), params["moe"]["experts"]["up"].kernel
    np.testing.assert_allclose(row.plain_error, np.linalg.norm(dense - kernel) / np.linalg.norm(kernel), rtol=1e-4)
