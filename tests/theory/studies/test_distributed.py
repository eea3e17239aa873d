"""Errors by hand, parts that repeat, costs that do not rise; the reduction is nearly as good as the global estimate."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.aggregation import permuted
from moejax.theory.studies.distributed import Distributed, agreement, error, truth


def test_the_error_does_not_mind_the_order_of_experts():
    assert error(truth()) == 0.0 and error(permuted(truth(), [2, 0, 1])) < 1e-30
    moved = truth().replace(variance=np.array([0.5, 0.3, 0.8 + 0.28]))
    assert error(moved) == pytest.approx(0.28**2 / 28)  # of 10 gates, 15 weights and 3 variances


def test_the_truth_predicts_and_groups_better_than_what_is_off():
    true = agreement(truth(), np.random.default_rng(0))
    off = agreement(truth().replace(expert=truth().expert + 1.0), np.random.default_rng(0))
    assert true == agreement(permuted(truth(), [2, 0, 1]), np.random.default_rng(0))
    assert true["prediction"] < off["prediction"] and 0.3 < true["adjusted rand"] < true["rand"] < 1
    assert off["adjusted rand"] < true["adjusted rand"]


def test_parts_repeat_and_costs_do_not_rise():
    study = Distributed(num_examples=1600, shards=(1, 2), replicates=5, max_steps=20)
    raw = {part: study.estimates(part) for part in study.parts}
    np.testing.assert_array_equal(raw["2"]["reduced"], study.estimates("2")["reduced"])
    assert raw["2"]["reduced"].shape == (5,) and np.all(raw["2"]["rise"] <= 1e-12)
    np.testing.assert_array_equal(raw["1"]["reduced"], raw["1"]["averaged"])  # one shard
    assert raw["time"]["seconds"].shape == (5, 2) and np.all(raw["time"]["seconds"] > 0)
    assert np.all(raw["1"]["prediction"] > 0) and np.all(raw["1"]["adjusted rand"] <= raw["1"]["rand"])
    unfinished = study.findings({name: one | {"converged": np.zeros(5)} for name, one in raw.items()})
    assert {one.verdict for one in unfinished} == {"not testable"} and all(one.failed == 5 for one in unfinished)
    finished = study.findings({name: one | {"converged": np.ones(5)} for name, one in raw.items()})
    assert len(finished) == 8 and len({one.expected.quantity for one in finished}) == 8
    assert all(np.isfinite(one.measured) and one.interval[0] <= one.measured <= one.interval[1] for one in finished)
    assert [curve.label for curve in study.chart(raw).curves] == ["reduced", "averaged"]


@pytest.mark.slow
def test_the_reduction_is_nearly_as_good_as_the_global_estimate():
    study = Distributed(shards=(1, 4), replicates=5)
    found = study.findings({part: study.estimates(part) for part in study.parts})
    assert found[0].measured <= 1.5 and found[1].measured < 1 and found[0].failed == 0


def test_shards_that_do_not_divide_are_refused():
    with pytest.raises(SpecError, match=r"shards=\(1, 3\) must begin with 1, go on, and divide num_examples=20000"):
        Distributed(shards=(1, 3))
