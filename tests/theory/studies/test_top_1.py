"""One selected expert: experts at n^(-1/2), the boundary at 1/n, and a gate of which no likelihood shows more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.findings import Verdict
from moejax.theory.studies.exact_softmax import TRUTH
from moejax.theory.studies.top_1 import MODEL, Top1


@pytest.mark.slow
def test_errors_and_the_boundary_fall_at_their_rates():
    study = Top1()
    raw = {part: study.estimates(part) for part in study.parts}
    found = {one.expected.quantity: one for one in study.findings(raw)}
    assert found["D1"].measured == pytest.approx(-0.5, abs=0.05)
    assert found["boundary"].measured == pytest.approx(-1.0, abs=0.1)
    assert found["D1"].verdict == "confirmed with the corrected protocol" and found["boundary"].verdict == "confirmed"
    assert all(one.failed == 0 for one in found.values())


def test_small_sizes_find_the_boundary_and_name_what_is_not_identified():
    study = Top1(sizes=(200, 400, 800), replicates=6)
    raw = {part: study.estimates(part) for part in study.parts}
    np.testing.assert_array_equal(raw["200"]["params"], study.estimates("200")["params"])
    assert np.all(np.abs(raw["800"]["boundary"] - 0.32) < 0.01)  # 8 / 25
    rows = raw["800"]["params"].reshape(6, 2, 5)
    np.testing.assert_allclose(rows[:, 0, 0], -25 * raw["800"]["boundary"])
    assert np.all(rows[:, 0, 2] < -15) and np.all(rows[:, 1, 2] > 15)  # the first expert is to the right
    errors = study.errors(raw["800"])
    # The gate opens the first expert's mass e^-8 times: the loss is the second expert's errors.
    second = sum(errors[f"{name} 2"] for name in ("weight", "bias", "variance"))
    np.testing.assert_allclose(errors["D1"], second, rtol=0.01)
    gates: dict[str, Verdict] = {
        one.expected.quantity: one.verdict for one in study.findings(raw) if "gate" in one.expected.quantity
    }
    assert gates == {"gate bias 1": "not testable", "gate kernel 1": "not testable"}
    reasons = [one.reason for one in study.findings(raw) if one.expected.quantity in gates]
    assert all("(bias, kernel) -> c (bias, kernel)" in reason for reason in reasons)
    assert [curve.label for curve in study.chart(raw).curves][:2] == ["D1", "boundary"]


def test_the_flat_direction_is_flat():
    x = np.linspace(0.0, 1.0, 41)
    y = 2 * x
    with jax.enable_x64(True):

        def log_density(factor):
            gate = {name: factor * values for name, values in TRUTH["gate"].items()}
            params = jax.tree.map(jnp.asarray, TRUTH | {"gate": gate})
            return np.asarray(MODEL.log_density(params, jnp.asarray(x), jnp.asarray(y)))

        for factor in (0.01, 0.5, 3.0):
            np.testing.assert_array_equal(log_density(factor), log_density(1.0))


def test_sizes_too_small_for_two_sides_are_refused():
    with pytest.raises(SpecError, match="3 sizes of 25 examples or more"):
        Top1(sizes=(20, 40, 80))
