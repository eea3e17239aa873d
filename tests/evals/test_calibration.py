"""Calibration by hand: 4 predictions of 2 classes."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.calibration import calibration

PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
LABELS = np.array([0, 1, 1, 1])  # predicted 0, 0, 1, 1: right, wrong, right, right


def test_expected_calibration_error():
    # Two bins, (0, 0.5] and (0.5, 1]: all four confidences 0.9, 0.8, 0.7, 0.6 lie in the second, mean 0.75, accuracy 0.75.
    assert calibration(PROBABILITIES, LABELS, num_bins=2)["ece"] == pytest.approx(0.0)
    # Ten bins: (0.5, 0.6] has 0.6, right: |1 - 0.6| = 0.4; (0.6, 0.7]: 0.3; (0.7, 0.8] has 0.8, wrong: 0.8;
    # (0.8, 0.9]: 0.1. Mean (0.4 + 0.3 + 0.8 + 0.1) / 4 = 0.4.
    found = calibration(PROBABILITIES, LABELS, num_bins=10)
    assert found["ece"] == pytest.approx(0.4)
    assert [b["count"] for b in found["bins"]] == [1, 1, 1, 1]
    assert [b["accuracy"] for b in found["bins"]] == [1.0, 1.0, 0.0, 1.0]


def test_likelihood_and_brier_score():
    found = calibration(PROBABILITIES, LABELS)
    # Probabilities of the labels: 0.9, 0.2, 0.7, 0.6.
    assert found["nll"] == pytest.approx(-np.log(0.9 * 0.2 * 0.7 * 0.6) / 4)
    # 2 (1 - p)^2 for two classes: 2 (0.01 + 0.64 + 0.09 + 0.16) / 4 = 0.45.
    assert found["brier"] == pytest.approx(0.45)


def test_wrong_input_is_an_error():
    with pytest.raises(SpecError, match="sum to one"):
        calibration(2 * PROBABILITIES, LABELS)
    with pytest.raises(SpecError, match="num_bins=0"):
        calibration(PROBABILITIES, LABELS, num_bins=0)
