"""The penalised mixture: its truth and inputs as said, the best penalty by hand, and a divergence that falls."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.studies.lasso import Lasso, bound, correlated, truth


def small(**fields):
    sizes = {"sizes": (40, 60, 80), "dim": 12, "dims": (8, 12), "size": 60, "penalties": (0.02, 0.06, 0.2)}
    return Lasso(**(sizes | {"replicates": 5, "num_test": 30, "iterations": 40} | fields))


@pytest.mark.slow
def test_the_divergence_falls_and_the_support_is_found():
    study = Lasso(sizes=(400, 800, 1600), dim=50, dims=(25, 50), size=800, replicates=5)
    raw = {part: study.estimates(part) for part in study.parts}
    findings = {one.expected.quantity: one for one in study.findings(raw)}
    assert findings["fall with n short of 1/2"].verdict == "confirmed"
    assert findings["support found, n=1600"].verdict == "confirmed"
    assert findings["divergence within the bound"].measured == 1.0


def test_the_truth_is_sparse_and_inputs_are_correlated():
    true = truth(20)
    assert np.count_nonzero(true["kernel"]) == 5 and np.count_nonzero(true["gate"]["kernel"]) == 3
    x = correlated(np.random.default_rng(0), 20_000, 5)
    np.testing.assert_allclose(np.corrcoef(x.T)[0], 0.5 ** np.arange(5), atol=0.03)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=0.02)
    assert bound(100, 50) == pytest.approx(np.log(100) * np.sqrt(np.log(101) / 100))


def test_the_best_penalty_is_that_of_the_fits_that_converged():
    study = small()
    values = np.tile(np.exp([0.0, -1.0, 0.0]), (5, 1))
    raw = {"divergence": values, "step": np.zeros((5, 3))}
    assert study._best(raw) == 1
    # The grid is even in logarithms but for rounding: the parabola is lowest in its middle.
    assert study._best_by_replicate(raw)[0] == pytest.approx(0.0618, rel=0.05)
    lost = {"divergence": values, "step": np.tile([0.0, 1.0, 0.0], (5, 1))}
    assert study._best(lost) == 0 and np.all(np.isnan(study.divergences(lost)[:, 1]))


def test_a_small_run_has_all_its_numbers():
    study = small()
    raw = {part: study.estimates(part) for part in study.parts}
    assert set(raw) == {"n=40-p=12", "n=60-p=12", "n=80-p=12", "n=60-p=8"}
    again = study.estimates("n=60-p=8")
    np.testing.assert_array_equal(again["divergence"], raw["n=60-p=8"]["divergence"])
    assert len(study.findings(raw)) == 6 and set(study.table(raw)) == set(raw)
    assert len(study.chart(raw).curves) == 4


def test_misuse_is_refused():
    with pytest.raises(SpecError, match="ascend"):
        small(penalties=(0.1, 0.05, 0.2))
    with pytest.raises(SpecError, match="at least 7, where the truth"):
        small(dims=(3, 12))
    with pytest.raises(SpecError, match="at least two"):
        small(dims=(12,))
