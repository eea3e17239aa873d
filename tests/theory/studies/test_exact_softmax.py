"""The exact-specified softmax study: reproducible, honest about failures, and at the rate of the theorem."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.rates import rate
from moejax.theory.studies.exact_softmax import ExactSoftmax, measure


@pytest.mark.slow
def test_errors_fall_at_the_parametric_rate():
    study = ExactSoftmax(sizes=(1000, 3162, 10_000, 31_623))
    raw = {part: study.estimates(part) for part in study.parts}
    errors = {n: study.errors(raw[str(n)]) for n in study.sizes}
    assert errors[10_000]["D1"].mean() == pytest.approx(0.075, abs=0.02)
    found = rate({n: errors[n]["D1"] for n in study.sizes})
    assert found.failed == 0 and found.slope == pytest.approx(-0.5, abs=0.05)
    assert found.interval[0] < -0.49 < found.interval[1] + 0.05
    findings = study.findings(raw)
    assert {one.verdict for one in findings} == {"confirmed"} and len(findings) == 4
    assert all(one.sizes == study.sizes and one.replicates == (40,) * 4 for one in findings)
    assert [curve.label for curve in study.chart(raw).curves] == ["D1", "weight 2", "bias 2", "variance 2"]
    # The maximum lies above the truth's neighbours that it started from, and is one.
    assert all(np.all(one["curvature"] > 0) for one in raw.values())


def test_one_size_again_gives_the_same_and_failures_are_no_errors():
    study = ExactSoftmax(sizes=(200, 300, 400), replicates=5)
    raw, again = study.estimates("200"), study.estimates("200")
    np.testing.assert_array_equal(raw["params"], again["params"])
    assert raw["params"].shape == (5, 10) and np.all(raw["slope"] < 1e-6)
    np.testing.assert_array_equal(raw["params"][:, 5:7], 0.0)  # the pinned gate
    errors = study.errors(raw)
    assert errors["D1"].shape == (5,) and "gate bias 2" not in errors and np.all(errors["D1"] > 0)
    assert errors["variance 1"][0] == pytest.approx(abs(np.exp(raw["params"][0, 4]) - 0.09))
    early = ExactSoftmax(sizes=(200, 300, 400), replicates=5, iterations=1)
    assert np.all(np.isnan(early.errors(early.estimates("200"))["D1"]))


def test_measures_hold_variances():
    found = measure(np.array([0.1, 2.0, 3.0, 4.0, np.log(0.5)]))
    assert found.log_mass.tolist() == [0.1] and found.atoms["variance"].tolist() == [[0.5]]


def test_what_gives_no_interval_is_refused():
    with pytest.raises(SpecError, match=r"at least 3 sizes of 10 examples or more and 5 replicates"):
        ExactSoftmax(sizes=(100, 200))
