"""Two selected experts of three: identified, reproducible, at the rate of the theorem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.softmax_gaussian import pack
from moejax.theory.studies.sparse_softmax import MODEL, TRUTH, SparseSoftmax


@pytest.mark.slow
def test_errors_fall_at_the_parametric_rate():
    study = SparseSoftmax(sizes=(316, 1000, 3162, 10_000))
    raw = {part: study.estimates(part) for part in study.parts}
    found = {one.expected.quantity: one for one in study.findings(raw)}
    assert found["D1"].measured == pytest.approx(-0.5, abs=0.06)
    assert found["D1"].verdict == "confirmed with the corrected protocol" and found["D1"].failed <= 5
    assert all(np.all(np.isfinite(one["params"])) for one in raw.values())
    errors = study.errors(raw["3162"])
    assert np.nanmean(errors["D1"]) == pytest.approx(0.87, abs=0.2)


def test_pairs_of_neighbours_are_selected_on_either_side_of_zero():
    with jax.enable_x64(True):
        gates = np.asarray(MODEL.log_gates(jax.tree.map(jnp.asarray, TRUTH), jnp.array([-0.5, 0.5])))
    np.testing.assert_array_equal(np.isfinite(gates), [[False, True, True], [True, True, False]])


def test_errors_of_the_truth_are_zero_and_failures_are_no_errors():
    study = SparseSoftmax()
    rows = np.stack([pack(TRUTH)] * 3)
    raw = {"params": rows, "slope": np.array([1e-9, 1e-9, 1e-3]), "curvature": np.array([0.1, -0.1, 0.1])}
    errors = study.errors(raw)
    assert {name for name in errors if name.startswith("gate")} == {
        "gate bias 1", "gate bias 2", "gate kernel 1", "gate kernel 2"
    }  # fmt: skip
    for values in errors.values():
        np.testing.assert_allclose(values, [0.0, np.nan, np.nan], atol=1e-14)
    moved = rows.copy()
    moved[:, 7] += 0.5  # the weight of the second expert, whose mass is exp(-0.3)
    assert study.errors(raw | {"params": moved})["D1"][0] == pytest.approx(0.5 * np.exp(-0.3))


def test_too_few_sizes_are_refused():
    with pytest.raises(SpecError, match="3 sizes of 15 examples or more"):
        SparseSoftmax(sizes=(316, 10, 1000))
