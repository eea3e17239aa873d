"""Sigmoid experts at their rates, linear ones not identified, failures counted."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.rates import rate
from moejax.theory.studies.least_squares import LeastSquares


@pytest.mark.slow
def test_sigmoid_experts_fall_and_linear_ones_stay():
    study = LeastSquares(sizes=(10**7, 10**9, 10**11), replicates=10)
    errors = {
        kind: {n: study.errors(f"{kind}-{n}", study.estimates(f"{kind}-{n}")) for n in study.sizes}
        for kind in ("sigmoid", "linear")
    }

    def slope(kind, name):
        return rate({n: errors[kind][n][name] for n in study.sizes}, summary="median").slope

    assert slope("sigmoid", "D1") == pytest.approx(-0.55, abs=0.12)
    assert slope("sigmoid", "cell expert") == pytest.approx(-0.3, abs=0.12)
    assert slope("linear", "cell expert") > -0.12
    assert slope("linear", "function") == pytest.approx(-0.5, abs=0.05)


def test_one_part_again_gives_the_same_and_what_has_not_converged_is_no_error():
    study = LeastSquares(sizes=(10**6, 10**7, 10**8), replicates=5, iterations=40, widths=(0.1,))
    raw, again = study.estimates("exact-linear-1000000"), study.estimates("exact-linear-1000000")
    np.testing.assert_array_equal(raw["params"], again["params"])
    errors = study.errors("exact-linear-1000000", raw)
    assert raw["params"].shape == (5, 8) and set(errors) == {"D1", "function"} and np.all(errors["D1"] > 0)
    stopped = study.errors("exact-linear-1000000", dict(raw) | {"slope": np.full(5, np.nan)})
    assert np.all(np.isnan(stopped["D1"]))


def test_the_flat_direction_is_flat():
    study = LeastSquares()
    assert np.abs(study._along_the_flat_direction()).max() < 1e-14


def test_too_few_inputs_are_refused():
    with pytest.raises(SpecError, match="grid=10"):
        LeastSquares(grid=10)
