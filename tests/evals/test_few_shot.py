"""Ridge regression against scikit-learn's and on paper; the probe on features that are easy and hopeless."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from moejax.core.errors import SpecError
from moejax.evals.few_shot import FewShot, draw_shots, ridge


def test_ridge_on_paper():
    # x = -1, 1 and y = -2, 2 (both centred): w = sum xy / (sum xx + l2) = 4 / (2 + 2) = 1, intercept 0.
    [(kernel, intercept)] = ridge(np.array([[-1.0], [1.0]]), np.array([[-2.0], [2.0]]), [2.0])
    np.testing.assert_allclose(kernel, [[1.0]])
    np.testing.assert_allclose(intercept, [0.0], atol=1e-12)


@pytest.mark.parametrize("examples", [5, 40])  # fewer and more examples than features
def test_ridge_equals_scikit_learn(examples):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(examples, 8)) + 3.0, rng.normal(size=(examples, 3))
    for penalty, (kernel, intercept) in zip([0.1, 10.0], ridge(x, y, [0.1, 10.0]), strict=True):
        reference = Ridge(alpha=penalty).fit(x, y)
        np.testing.assert_allclose(kernel, reference.coef_.T, atol=1e-9)
        np.testing.assert_allclose(intercept, reference.intercept_, atol=1e-9)


def blobs(rng, count, distance):
    labels = np.arange(count) % 3
    return rng.normal(size=(count, 6)) + distance * np.eye(6)[labels], labels


def test_easy_features_are_learned_and_noise_is_not():
    rng = np.random.default_rng(1)
    probe = FewShot(shots=10, draws=3)
    easy = probe.evaluate(*(blobs(rng, n, 8.0) for n in (90, 60, 300)))
    assert easy["accuracy"] > 0.98
    assert easy["standard_error"] == pytest.approx(np.std(easy["accuracies"], ddof=1) / 3**0.5)
    noise = probe.evaluate(*(blobs(rng, n, 0.0) for n in (90, 60, 300)))
    assert noise["accuracy"] < 0.45
    assert len(noise["l2"]) == 3


def test_draws_hold_the_same_number_of_every_class():
    labels = np.array([0] * 7 + [1] * 4 + [4] * 3)
    rows = draw_shots(labels, 3, np.random.default_rng(0))
    assert len(set(rows)) == 9
    assert np.bincount(labels[rows]).tolist() == [3, 3, 0, 0, 3]
    with pytest.raises(SpecError, match="class 4 has 3 examples"):
        draw_shots(labels, 4, np.random.default_rng(0))


def test_options_are_checked():
    with pytest.raises(SpecError, match="l2"):
        FewShot(l2=())
