"""Distances to the nearest expert by hand, rates of both gates, flat directions named."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.least_squares_moe import LeastSquaresMoE, host_regression
from moejax.theory.rates import rate
from moejax.theory.studies.sigmoid_gate import CONSTANT, TRUTH, SigmoidGate


@pytest.mark.slow
def test_a_sigmoid_finds_the_experts_and_a_softmax_does_not():
    study = SigmoidGate(sizes=(10**7, 10**9, 10**11), replicates=10)
    medians = {}
    for kind in ("sigmoid-linear", "softmax-linear"):
        errors = {n: study.errors(f"{kind}-{n}", study.estimates(f"{kind}-{n}"))["nearest"] for n in study.sizes}
        medians[kind] = rate(errors, summary="median")
    assert medians["sigmoid-linear"].slope == pytest.approx(-0.5, abs=0.1)
    assert medians["softmax-linear"].slope > -0.15


def test_distances_by_hand():
    fitted = np.concatenate([TRUTH + np.array([9, 9, 3, 4, 9, 9, 0, 0.5]), [0, 0, 3, 1.25]])
    # Experts (6, 5), (-2, 2), (3, 1.25), true ones (3, 1), (-2, 1.5): nearest to each true one 0.25 and 0.5; the first is 5 away.
    study = SigmoidGate()
    errors = study.errors("sigmoid-relu-1000000", {"params": fitted[None], "slope": np.zeros(1)})
    assert errors["nearest"].tolist() == [0.75] and errors["every atom"].tolist() == [5.0]
    lost = study.errors("sigmoid-relu-1000000", {"params": fitted[None], "slope": np.full(1, np.nan)})
    assert np.isnan(lost["nearest"][0])


def test_a_linear_expert_under_a_sigmoid_has_a_mirror_image():
    first, second = TRUTH.reshape(2, 4)
    constant = 0.7
    image = -first
    open_gate = np.concatenate([[constant, 0.0], first[2:] * (1 + np.exp(-constant))])
    mirrored = np.concatenate([image, open_gate, second])
    x = np.linspace(-3, 3, 30)
    gaps = {
        expert: np.abs(
            host_regression(LeastSquaresMoE(expert=expert, gating="sigmoid"), mirrored, x)
            - host_regression(LeastSquaresMoE(expert=expert, gating="sigmoid"), TRUTH, x)
        ).max()
        for expert in ("linear", "relu")
    }
    assert gaps["linear"] < 1e-13 and gaps["relu"] > 0.1


def test_a_constant_gate_is_shared_by_two_and_a_turning_one_is_not():
    """Sigmoids of kernel zero whose sum is the true one's: three experts are exactly two."""
    model, x = LeastSquaresMoE(expert="gelu", gating="sigmoid"), np.linspace(-3, 3, 30)
    first, second = CONSTANT.reshape(2, 4)
    half = 1 / (1 + np.exp(-first[0])) / 2
    shared = np.stack([first, first])
    shared[:, 0] = np.log(half / (1 - half))
    np.testing.assert_allclose(
        host_regression(model, np.concatenate([*shared, second]), x), host_regression(model, CONSTANT, x), atol=1e-13
    )
    assert first[1] == 0 and second[1] != 0


def test_findings_name_what_is_not_identified():
    study = SigmoidGate(sizes=(10**6, 10**7, 10**8), replicates=5)
    draw = np.random.default_rng(0)

    def raw(part):
        rate = {"softmax": 0.0, "sigmoid": -0.5, "constant": -0.25}[part.partition("-")[0]]
        params = np.tile(np.concatenate([TRUTH, [0.0, 0.0, 9.0, 9.0]]), (5, 1))
        params[:, [2, 3]] += 0.5 * int(part.rpartition("-")[2]) ** rate * (1 + 0.01 * draw.random((5, 1)))
        return {"params": params, "slope": np.zeros(5)}

    findings = {one.expected.quantity: one for one in study.findings({part: raw(part) for part in study.parts})}
    assert findings["sigmoid relu"].measured == pytest.approx(-0.5, abs=0.01)
    for case in ("softmax", "constant"):  # the atom too many is far from every true one, whatever n
        assert findings[f"{case} gelu, every atom"].verdict == "not confirmed"
        assert "move apart" in findings[f"{case} linear"].reason
    assert findings["softmax relu"].verdict == "not testable" and "trade their sizes" in findings["softmax relu"].reason
    assert findings["sigmoid below softmax, linear"].measured == 1.0


def test_fits_that_have_not_converged_are_no_errors():
    study = SigmoidGate(sizes=(10**6, 10**7, 10**8), replicates=5, iterations=1, widths=(0.1,))
    assert np.all(np.isnan(study.errors("sigmoid-relu-1000000", study.estimates("sigmoid-relu-1000000"))["nearest"]))


def test_too_few_inputs_are_refused():
    with pytest.raises(SpecError, match="grid=8"):
        SigmoidGate(grid=8)
