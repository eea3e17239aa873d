"""Similarity of encoders by hand."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals.embedding_similarity import similarity


def at_angles(*degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_by_hand():
    # Angles of the pairs 01, 02, 12: 10, 50, 40 by the original; 45, 60, 15 by the other. Ranks 1 3 2 and 2 3 1:
    # squared differences 1 + 0 + 1 = 2, so the correlation is 1 - 6 * 2 / (3 * 8) = 0.5.
    found = similarity(5 * at_angles(0, 45, 60), at_angles(0, 10, 50))
    assert found["spearman"] == pytest.approx(0.5)
    assert found["cosine"] == pytest.approx((1 + np.cos(np.deg2rad(35)) + np.cos(np.deg2rad(10))) / 3)


def test_the_same_vectors_and_a_rotation():
    vectors = at_angles(0, 10, 50, 110)
    assert similarity(vectors, vectors) == pytest.approx({"cosine": 1.0, "spearman": 1.0})
    turned = similarity(at_angles(90, 100, 140, 200), vectors)
    assert turned == pytest.approx({"cosine": 0.0, "spearman": 1.0}, abs=1e-12)


def test_too_few():
    with pytest.raises(SpecError, match="2 texts make no ranking"):
        similarity(at_angles(0, 1), at_angles(0, 1))
