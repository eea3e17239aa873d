"""One expert too many: D2 at n^(-1/2), atoms of the split cell at the rates of their mode, modes never pooled."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.softmax_gaussian import pack
from moejax.theory.studies.over_specified_softmax import LATTICE, TRUTH, OverSpecifiedSoftmax


@pytest.mark.slow
def test_rates_of_the_loss_and_of_both_modes():
    study = OverSpecifiedSoftmax(sizes=(10**6, 10**8, 10**10), replicates=40)
    raw = {part: study.estimates(part) for part in study.parts}
    found = {one.expected.quantity: one for one in study.findings(raw)}
    assert found["D2"].measured == pytest.approx(-0.5, abs=0.06)
    assert found["bias, split cell, location"].measured == pytest.approx(-0.125, abs=0.03)
    assert found["variance, split cell, location"].measured == pytest.approx(-0.25, abs=0.05)
    assert found["D2"].failed == 0 and found["D2"].verdict == "confirmed with the corrected protocol"
    shares = [np.mean(study.in_location(one)) for one in raw.values()]
    assert min(shares) > 0.15 and max(shares) < 0.75  # both modes, at every size
    assert np.median(raw["10000000000"]["ratio"]) == pytest.approx(14, abs=4)


def estimate(*atoms, start):
    params = np.array([*atoms], np.float64).reshape(1, -1)
    return {"params": params, "start": np.array([float(start)]), "gain": np.array([0.01]), "ratio": np.array([10.0])}


def test_errors_and_modes_by_hand():
    study = OverSpecifiedSoftmax()
    half, second = np.log(0.5), pack(TRUTH)[5:]
    thinner = estimate(half, 1, 1, 2.1, np.log(0.24), half, 1, 1, 1.9, np.log(0.24), *second, start=0)
    assert study.in_location(thinner).tolist() == [True]
    errors = study.errors(thinner)
    assert errors["bias, split cell"][0] == pytest.approx(0.1)
    assert errors["variance, split cell"][0] == pytest.approx(np.log(0.25 / 0.24))
    assert errors["mass, split cell"][0] == pytest.approx(0, abs=1e-12) and errors["bias, unsplit expert"][0] == 0
    assert errors["D2"][0] == pytest.approx(0.1**4 + 0.01**2)  # powers 4 and 2 in a cell of two, halves of each
    first = pack(TRUTH)[:5]
    wider = estimate(half, 0, -1, -2, np.log(0.4), half, 0, -1, -2, np.log(0.32), *first, start=4)
    assert study.in_location(wider).tolist() == [False]
    assert study.errors(wider)["bias, split cell"][0] == 0
    assert np.isnan(study.errors(wider | {"gain": np.array([0.7])})["D2"][0])


def test_a_small_run_is_reproducible_counts_modes_and_converges():
    study = OverSpecifiedSoftmax(sizes=(10**6, 10**7, 10**8), replicates=5)
    raw = study.estimates("1000000")
    np.testing.assert_array_equal(raw["params"], study.estimates("1000000")["params"])
    assert raw["params"].shape == (5, 15) and np.all(raw["gain"] < 0.5) and np.all(raw["ratio"] > 0)
    rows = raw["params"].reshape(5, 3, 5)
    np.testing.assert_array_equal(rows[:, 2, 0], 0.0)  # the unsplit expert's gate
    shares = np.exp(rows[:, 0, 0]) / np.exp(rows[:, :2, 0]).sum(axis=1)
    assert np.all(np.isclose(shares, 0.5) | np.isclose(shares, 0.85))
    findings = study.findings(dict.fromkeys(study.parts, raw))
    pooled = findings[-1]
    assert pooled.verdict == "not testable" and "two modes" in pooled.reason


def test_the_lattice_holds_the_truth_and_sizes_are_checked():
    LATTICE.check(0.25)
    with pytest.raises(SpecError, match="at least 3 sizes"):
        OverSpecifiedSoftmax(sizes=(10**4, 10**5, 10**6, 10**7))
