"""Accuracy by hand: 5 pictures of 3 classes in 2 domains."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.accuracy import accuracy

LABELS = np.array([0, 0, 1, 2, 2])
CORRECT = np.array([True, False, True, True, False])
NAMES = {
    "class_names": ("shirt", "shoe", "cat", "dog"),
    "domain_names": ("garments", "pets"),
    "class_domains": (0, 0, 1, 1),
}


def test_over_all_domains_and_classes():
    found = accuracy(CORRECT, LABELS, **NAMES)
    assert found["all"]["accuracy"] == pytest.approx(3 / 5)
    assert found["all"]["standard_error"] == pytest.approx((0.6 * 0.4 / 5) ** 0.5)
    assert found["domains"]["garments"] == {
        "accuracy": pytest.approx(2 / 3),  # labels 0, 0, 1: right, wrong, right
        "count": 3,
        "standard_error": pytest.approx((2 / 9 / 3) ** 0.5),
    }
    assert found["domains"]["pets"]["accuracy"] == pytest.approx(1 / 2)
    assert list(found["classes"]) == ["shirt", "shoe", "cat"]  # no dog among the pictures
    assert found["classes"]["shoe"]["accuracy"] == 1.0


def test_an_empty_split_and_missing_domains_are_errors():
    with pytest.raises(SpecError, match="at least one example"):
        accuracy(np.zeros(0, bool), np.zeros(0, np.int64), class_names=("a",))
    with pytest.raises(SpecError, match="1 entries for 4 classes"):
        accuracy(CORRECT, LABELS, **(NAMES | {"class_domains": (0,)}))
