"""Published truths by their numbers, starts that repeat, and one step of EM that has the published slope."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.studies.gaussian_gated import GaussianGatedRates, loss, truth


def test_truths_are_the_published_ones():
    one, two, four = truth(1), truth(2), truth(4)
    np.testing.assert_allclose(one.weight[:, 0], [0.404540, -0.714286, 0.0], atol=1e-6)
    np.testing.assert_allclose(one.bias, [0.340454, -0.328571, 0.2], atol=1e-6)
    np.testing.assert_allclose(one.variance, [0.0088767, 0.0264286, 0.0175], atol=1e-7)
    np.testing.assert_allclose([two.bias[0], two.variance[0]], [0.3, 0.0081759 - 0.404540 * 0.017324], atol=1e-7)
    assert four.centre.tolist() == [[0, 0], [0.1, 0.1], [0.5, 0.5]] and four.weight.shape == (3, 2)


def test_the_loss_counts_a_pair_to_its_powers():
    raw = {}
    for field, values in truth(2).__dict__.items():
        raw[field] = np.repeat(np.asarray(values), [2, 1, 1], axis=0)[None]
    raw["log_mass"] = np.log([[0.1, 0.2, 0.4, 0.3]])
    assert loss(2, raw, 0).loss == pytest.approx(0.0, abs=1e-15)
    raw["bias"][0, 0] += 0.1  # of a pair: 0.1 ** 4
    raw["variance"][0, 3] += 0.01  # alone: 0.01
    assert loss(2, raw, 0).loss == pytest.approx(0.1 * 0.1**4 + 0.3 * 0.01)


def test_parts_repeat_and_unfinished_fits_are_no_errors():
    study = GaussianGatedRates(
        models=(2,), num_experts=(4,), sizes=(100, 200, 300), converged_sizes=(100, 200, 300), replicates=5, max_steps=3,
        converged_replicates=5,
    )  # fmt: skip
    raw = {part: study.estimates(part) for part in study.parts}
    assert len(study.parts) == 6
    np.testing.assert_array_equal(raw["one-2-4-200"]["bias"], study.estimates("one-2-4-200")["bias"])
    assert raw["one-2-4-200"]["steps"].tolist() == [1] * 5 and raw["one-2-4-200"]["centre"].shape == (5, 4, 1)
    assert np.all(np.isnan(study.errors("converged-2-4-200", raw["converged-2-4-200"])["loss"]))
    one, converged = study.findings(raw)
    assert one.expected.agreed == "artefact" and np.isfinite(one.measured)
    assert converged.verdict == "not testable" and converged.failed == 15


@pytest.mark.slow
def test_one_step_has_the_published_slope_and_size():
    study = GaussianGatedRates(models=(1, 3), num_experts=(4,), replicates=20, converged_sizes=(1000, 1001, 1002))
    parts = [part for part in study.parts if part.startswith("one")]
    raw = {part: study.estimates(part) for part in parts}
    for model, size in ((1, 0.0065), (3, 0.0112)):
        means = [study.errors(f"one-{model}-4-{n}", raw[f"one-{model}-4-{n}"])["loss"].mean() for n in study.sizes]
        assert np.polyfit(np.log(study.sizes), np.log(means), 1)[0] == pytest.approx(-0.505, abs=0.03)
        assert means[-1] == pytest.approx(size, rel=0.35)


def test_models_that_do_not_exist_are_refused():
    with pytest.raises(SpecError, match=r"models=\(5,\) must be of"):
        GaussianGatedRates(models=(5,))
