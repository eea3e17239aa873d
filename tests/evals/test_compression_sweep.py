"""A sweep over a subject that is two matrices: cells against NumPy, going on after a stop, table and picture."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.collect import collect
from moejax.compress.statistics_file import load
from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers
from moejax.core.spec import methods
from moejax.evals import compression_report, single_compression
from moejax.evals.compression_cells import Setting, comparable_methods, measure_cell, measure_structures, structure_name
from moejax.evals.compression_subject import Subject
from moejax.evals.compression_sweep import Sweep, label, run_sweep, setting_of
from moejax.evals.remembered_factors import Memory
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank


@dataclasses.dataclass
class TwoMatrices:
    """tanh(x first) second, scored by how near its outputs stay. calls: what was computed, to see what was not."""

    calls: list = dataclasses.field(default_factory=list)
    broken: bool = False
    name: str = "two"
    only: str = "first|second"
    headline: str = "near"
    num_examples: int = 9

    def __post_init__(self):
        rng = np.random.default_rng(0)
        kernels = rng.normal(size=(8, 12)), rng.normal(size=(12, 6))
        self.params = {n: Dense(jnp.asarray(k, jnp.float32)) for n, k in zip(("first", "second"), kernels, strict=True)}
        self.inputs = jnp.asarray(rng.normal(size=(9, 8)) * [1, 1, 1, 1, 1, 0.1, 0.1, 0.1], jnp.float32)

    def collect(self, kinds, *, seed, params=None, only=None):
        self.calls.append(("collect", seed))
        rng = np.random.default_rng(seed)
        batches = [rng.normal(size=(20, 8)).astype(np.float32) * np.float32([1, 1, 1, 1, 1, 0.1, 0.1, 0.1])]
        return collect(self.apply, params or self.params, batches, kinds, only=only or self.only,
                       loss=lambda p, x: jnp.sum(jnp.square(self.apply(p, x))))  # fmt: skip

    def apply(self, params, inputs):
        return params["second"].matmul(jnp.tanh(params["first"].matmul(inputs)))

    def quality(self, params):
        self.calls.append(("quality", None))
        distance = jnp.mean(jnp.square(self.apply(params, self.inputs) - self.apply(self.params, self.inputs)))
        return {"near": float(1 / (1 + distance)), "distance": float(distance)}

    def flops(self, params):
        return sum(getattr(leaf, "flops_per_row", lambda leaf=leaf: 2 * leaf.kernel.size)() for leaf in params.values())


SWEEP = Sweep(methods=("svd", "svd_llm", "svd_llm+refit"), budgets=(0.75, 0.5), seeds=(0, 1), rounds=2)


def test_it_is_a_subject():
    assert isinstance(TwoMatrices(), Subject)


def test_a_cell_against_numpy():
    subject = TwoMatrices()
    statistics = subject.collect(("second_moment",), seed=3).statistics
    record, params = measure_cell(subject, Setting(method="svd", budget=0.5), statistics, seed=3)
    left = [leaf.num_params() for leaf in params.values()]
    assert all(isinstance(leaf, LowRank) for leaf in params.values())
    assert record["params"] == sum(left) and record["share"] == sum(left) / (8 * 12 + 12 * 6) <= 0.5
    plain, data = [], []
    for name, leaf in params.items():
        kernel, cut = np.asarray(subject.params[name].kernel, np.float64), np.asarray(leaf.materialise(), np.float64)
        half = np.linalg.cholesky(statistics[name].second_moment + 1e-12 * np.eye(len(kernel))).T
        plain.append(np.linalg.norm(kernel - cut) / np.linalg.norm(kernel))
        data.append(np.linalg.norm(half @ (kernel - cut)) / np.linalg.norm(half @ kernel))
        assert record["weights"][name]["plain_error"] == pytest.approx(plain[-1], rel=1e-4)
        assert record["weights"][name]["data_error"] == pytest.approx(data[-1], rel=1e-4)
        assert record["weights"][name]["ranks"] == [leaf.u.shape[-1]]
    assert record["plain_error"] == pytest.approx(np.mean(plain), rel=1e-4)
    assert record["data_error"] == pytest.approx(np.mean(data), rel=1e-4)
    assert record["quality"]["near"] == pytest.approx(subject.quality(params)["near"], rel=1e-4)
    assert record["flops"] == 2 * sum(left)


def test_a_budget_out_of_reach_is_a_record_and_no_end():
    record, params = measure_cell(TwoMatrices(), Setting(method="svd", budget=0.01), None, seed=0)
    assert params is None and "smallest reachable" in record["unreachable"]


def test_the_methods_that_fit():
    found = set(comparable_methods(TwoMatrices()))
    assert {"svd", "svd_llm", "svd_llm+refit", "gfwsvd"} <= found
    wholly = {name for name, cls in methods("compress").items() if hasattr(cls, "compress_bank")}
    spectral = {name for name, cls in methods("compress").items() if hasattr(cls, "convert")}
    assert wholly and spectral and not found & (wholly | spectral)


def test_settings_of_names():
    assert setting_of("svd_llm+refit", 0.5, unit="flops", allocation="spectrum") == Setting(
        method="svd_llm", budget=0.5, unit="flops", allocation="spectrum", sequential=True
    )
    bank = setting_of("mc_smoe", 0.5, unit="flops", allocation="spectrum")
    assert (bank.unit, bank.allocation) == ("params", None), "whole banks know parameters alone"
    assert label(setting_of({"name": "dobi", "steps": 5}, 0.5, unit="params", allocation=None)) == "dobi_steps=5"
    assert "second_moment" in Setting(method="svd_llm", budget=0.5).kinds()
    assert "fisher_rows" in Setting(method="svd", budget=0.5, allocation="fisher").kinds()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, subject = tmp_path_factory.mktemp("sweep"), TwoMatrices()
    lines = []
    return folder, subject, run_sweep(subject, SWEEP, folder, say=lines.append), lines


def test_every_method_budget_and_seed_has_a_cell_but_seeds_for_methods_without_data(finished):
    _, _, result, lines = finished
    found = sorted((cell["method"], cell["budget"], cell["seed"]) for cell in result["cells"])
    by_data = [(name, b, s) for name in ("svd_llm", "svd_llm+refit") for b in (0.5, 0.75) for s in (0, 1)]
    assert found == sorted([("svd", 0.5, 0), ("svd", 0.75, 0), *by_data])
    assert sum("near 0." in line for line in lines) == len(found)


def test_data_aware_methods_have_the_smaller_error_of_outputs_and_svd_that_of_kernels(finished):
    cells = {(c["method"], c["budget"], c["seed"]): c for c in finished[2]["cells"]}
    for budget in SWEEP.budgets:
        plain, aware = cells["svd", budget, 0], cells["svd_llm", budget, 0]
        assert aware["data_error"] < plain["data_error"] and plain["plain_error"] < aware["plain_error"]


def test_latency_is_that_of_the_first_seed_and_leaves_compute_what_their_kernels_do(finished):
    _, subject, result, _ = finished
    wanted = {cell["structure"] for cell in result["cells"] if cell["seed"] == 0}
    assert wanted | {"before", structure_name(subject.params)} == set(result["structures"])
    for measured in result["structures"].values():
        assert measured["milliseconds"] > 0 and measured["difference"] < 1e-4 and measured["temporary_bytes"] >= 0


def test_a_second_call_computes_nothing_again(finished):
    folder, _, result, _ = finished
    again = TwoMatrices()
    assert run_sweep(again, SWEEP, folder, say=lambda line: None)["cells"] == result["cells"]
    assert again.calls == [("quality", None)], "the uncompressed subject alone"


def test_a_stopped_sweep_goes_on(finished, tmp_path):
    whole = finished[2]
    subject = TwoMatrices()
    first = dataclasses.replace(SWEEP, seeds=(0,), rounds=0)
    run_sweep(subject, first, tmp_path, say=lambda line: None)
    (tmp_path / "cells" / "svd-0.5-0.json").unlink()
    (tmp_path / "cells" / "svd-0.75-0.json").write_text('{"asked": "another setting"}')
    subject.calls.clear()
    result = run_sweep(subject, SWEEP, tmp_path, say=lambda line: None)
    assert [(c["method"], c["budget"], c["seed"]) for c in result["cells"]] == [
        (c["method"], c["budget"], c["seed"]) for c in whole["cells"]
    ]
    assert ("collect", 1) in subject.calls
    assert (
        subject.calls.count(("quality", None)) == 2 + 4 + 1
    )  # two cells again, four of seed 1, and the uncompressed one


def test_table_and_picture(finished, tmp_path):
    table, picture = compression_report.write_report(finished[2], tmp_path)
    text = table.read_text()
    assert "| method | 75% | 50% |" in text and "| svd_llm+refit |" in text and "±" in text
    cell = next(c for c in finished[2]["cells"] if c["method"] == "svd" and c["budget"] == 0.5)
    assert f"{cell['quality']['near']:.4f}" in text and f"{cell['params']:,}" in text
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000


def test_remembered_factorisations_change_no_number_and_cost_what_they_cost():
    subject, memory = TwoMatrices(), Memory()
    statistics = subject.collect(("second_moment",), seed=0).statistics
    for budget in (0.75, 0.5, 0.25):
        setting = Setting(method="svd_llm", budget=budget)
        shared, params = measure_cell(subject, setting, statistics, seed=0, memory=memory)
        alone, wanted = measure_cell(subject, setting, statistics, seed=0)
        assert (memory.saved > 0) == (budget < 0.75) and shared["seconds"] >= memory.saved
        assert shared["structure"] == alone["structure"]
        for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    other = subject.collect(("second_moment",), seed=1).statistics
    memory.saved = 0.0
    fresh = measure_cell(subject, Setting(method="svd_llm", budget=0.25), other, seed=1, memory=memory)[0]
    assert memory.saved == 0.0, "other statistics are another factorisation"
    assert fresh["data_error"] == pytest.approx(
        measure_cell(subject, Setting(method="svd_llm", budget=0.25), other, seed=1)[0]["data_error"], rel=1e-6
    )


def test_methods_that_are_run_once(tmp_path):
    sweep = dataclasses.replace(SWEEP, methods=("svd_llm", "fwsvd"), budgets=(0.5,), once=("fwsvd",), rounds=0)
    result = run_sweep(TwoMatrices(), sweep, tmp_path, say=lambda line: None)
    assert [(c["method"], c["seed"]) for c in result["cells"]] == [("svd_llm", 0), ("fwsvd", 0), ("svd_llm", 1)]
    kinds = [load(tmp_path / "statistics" / f"seed_{seed}.safetensors")[1]["kinds"] for seed in (0, 1)]
    assert kinds == [["second_moment", "fisher_rows"], ["second_moment"]], "nothing is collected that nobody asks for"


def test_unreachable_cells_are_told(tmp_path):
    result = run_sweep(
        TwoMatrices(),
        Sweep(methods=("svd",), budgets=(0.5, 0.01), seeds=(0,), rounds=0),
        tmp_path,
        say=lambda line: None,
    )
    text = compression_report.markdown(result)
    assert "svd at 1%, seed 0: " in text and "smallest reachable" in text and "| - |" in text
    compression_report.write_report(result, tmp_path)


def test_the_text_of_one_compression(tmp_path):
    subject = TwoMatrices()
    record, params = measure_cell(subject, Setting(method="svd", budget=0.5), None, seed=0)
    stages = single_compression.compare(subject, {"before": subject.params, "after": params}, rounds=1)
    assert stages["before"]["quality"]["near"] == 1.0 and stages["after"]["params"] == record["params"]
    result = {
        "subject": "two", "setting": dataclasses.asdict(Setting(method="svd", budget=0.5)), "stages": stages,
        "healing": {"steps": 3, "kind": "distill", "first": 2.0, "last": 1.0, "seconds": 0.5}, "warnings": ["few rows"],
        "seconds": 1.0, "weights": record["weights"],
    }  # fmt: skip
    text = single_compression.markdown(json.loads(json.dumps(result)))
    assert "| first | " in text and "loss 2.0000 -> 1.0000" in text and "- few rows" in text and "| after |" in text


def test_structures_that_compute_something_else_would_be_seen():
    subject = TwoMatrices()

    class Wrong(Dense):
        """Multiplies by twice what it says."""

        def matmul(self, x):
            return 2 * x @ self.kernel

    jax.tree_util.register_dataclass(Wrong, ["kernel"], [])
    found = measure_structures(
        subject, {"wrong": subject.params | {"second": Wrong(subject.params["second"].kernel)}}, rounds=1
    )
    assert found["wrong"]["difference"] == pytest.approx(1.0, rel=1e-3)


def test_wrong_sweeps():
    with pytest.raises(SpecError, match="need one entry each"):
        Sweep(seeds=())
    with pytest.raises(SpecError, match="Did you mean 'svd_llm'"):
        Sweep(methods=("svd_lm",)).settings(TwoMatrices())


@dataclasses.dataclass
class OneBank(TwoMatrices):
    """Three experts of one hidden layer, each on its own third of the rows."""

    name: str = "bank"
    only: str = "bank/"

    def __post_init__(self):
        rng = np.random.default_rng(1)
        shapes = {"up": (3, 6, 12), "down": (3, 12, 6)}
        self.params = {"bank": {n: Dense(jnp.asarray(rng.normal(size=s), jnp.float32)) for n, s in shapes.items()}}
        self.inputs = jnp.asarray(rng.normal(size=(9, 6)), jnp.float32)

    def apply(self, params, inputs):
        hidden = params["bank"]["up"].grouped_matmul(Buffers(inputs.reshape(3, 3, 6)), activation="relu")
        return params["bank"]["down"].grouped_matmul(hidden).tokens.reshape(9, 6)

    def flops(self, params):
        return 0

    def collect(self, kinds, *, seed, params=None, only=None):
        batches = [np.random.default_rng(seed).normal(size=(9, 6)).astype(np.float32) for _ in range(3)]
        return collect(self.apply, params or self.params, batches, kinds, only=only or self.only)


@pytest.mark.parametrize("method", ["lorap_channels", "mole", "svd"])
def test_banks_and_channels_that_are_gone(method):
    subject = OneBank()
    statistics = subject.collect(("second_moment",), seed=0).statistics
    record, params = measure_cell(subject, Setting(method=method, budget=0.6), statistics, seed=0)
    assert record["share"] <= 0.6 and np.isfinite(record["quality"]["near"])
    gone = method == "lorap_channels"
    assert (record["plain_error"] is None) == (record["data_error"] is None) == gone
    costs = measure_structures(subject, {"small": params}, rounds=1)
    assert costs["small"]["difference"] < 1e-5
