"""The published simulation: its slopes with two experts, and what its D2 counts with three."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.softmax_gaussian import pack
from moejax.theory.studies.exact_softmax import TRUTH
from moejax.theory.studies.published_em import PublishedEM


@pytest.mark.slow
def test_slopes_of_two_experts_and_the_floor_of_three():
    sizes = (100, 300, 1000, 3000, 10_000, 30_000, 100_000)
    study = PublishedEM(sizes=sizes, over_sizes=(10_000, 20_000, 30_000), groups=2)
    raw = {part: study.estimates(part) for part in study.parts}
    found = {one.expected.quantity: one for one in study.findings(raw)}
    assert found["D1"].measured == pytest.approx(-0.5, abs=0.05) and found["D1"].verdict == "confirmed"
    share = found["share of D2 near 1"]
    assert share.measured >= 0.4 and share.verdict == "artefact"
    median = found["median of D2 over translations"]
    assert median.measured < 0.05 and median.verdict == "confirmed with the corrected protocol"
    assert found["D1 at n = 100000"].failed == 0


def test_the_published_sizes():
    study = PublishedEM()
    assert len(study.sizes) == 200 and study.sizes[:6] == (100, 300, 500, 700, 900, 1000) and study.sizes[-1] == 100_000
    grouped = [study._of_part(part)[1] for part in study.parts if part.startswith("experts=2")]
    assert sorted(n for group in grouped for n in group) == list(study.sizes)
    assert study.parts[-1] == "experts=3-n=100000"


def test_a_duplicated_reference_expert_is_an_error_of_one_until_gates_are_translated():
    study, rows = PublishedEM(), pack(TRUTH).reshape(2, 5)
    twice = np.concatenate([rows, rows[1:]]).reshape(1, -1)  # exp(0) twice where the truth has it once
    errors = study.errors(twice, np.ones(1))
    assert errors["D2"][0] == pytest.approx(1.0)
    assert errors["D2 aligned"][0] < 1e-3  # exp(-8) / 2 remains of the first expert's mass
    assert np.isnan(study.errors(twice, np.zeros(1))["D2"][0])
    first = np.concatenate([rows[:1], rows]).reshape(1, -1)
    assert study.errors(first, np.ones(1))["D2"][0] == pytest.approx(np.exp(-8), rel=1e-6)


def test_a_small_run_is_reproducible():
    study = PublishedEM(sizes=(100, 200, 400), over_sizes=(100, 200, 400), replicates=5, tries=2, groups=1)
    raw = {part: study.estimates(part) for part in study.parts}
    again = study.estimates("experts=2-group=0")
    np.testing.assert_array_equal(raw["experts=2-group=0"]["params"], again["params"])
    assert again["params"].shape == (5, 3, 10) and again["iterations"].min() >= 2
    assert raw["experts=3-n=400"]["params"].shape == (5, 1, 15)
    np.testing.assert_array_equal(again["params"][..., 5:7], 0.0)  # the reference gate
    quantities = [one.expected.quantity for one in study.findings(raw)]
    assert quantities[0] == "D1" and "share of D2 near 1" in quantities
    assert [curve.label for curve in study.chart(raw).curves] == ["D1", "D2", "D2 aligned"]


def test_what_is_refused():
    with pytest.raises(SpecError, match="tries=0"):
        PublishedEM(tries=0)
    with pytest.raises(SpecError, match="groups=201 from 1 to 200"):
        PublishedEM(groups=201)
