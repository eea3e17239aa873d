"""Precision, recall, density and coverage on points set by hand, and against loops over all pairs."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.evals import neighbour_balls
from moejax.evals.neighbour_balls import neighbour_scores

LINE = np.array([[0.0], [1.0], [2.0], [10.0]])  # k = 1: radii 1, 1, 1, 8


def test_points_on_a_line_by_hand():
    samples = np.array([[0.5], [1.5], [20.0]])  # k = 1: radii 1, 1, 18.5
    found = neighbour_scores(samples, LINE, neighbours=1)
    # 0.5 lies in the balls of 0 and 1, 1.5 in those of 1 and 2, 20 in none (10 away from 10, whose radius is 8).
    assert found.precision == pytest.approx(2 / 3)
    assert found.density == pytest.approx(4 / 3)
    # 0 and 1 lie in the ball of 0.5, 1 and 2 in that of 1.5; 10 is 10 away from 20, whose ball reaches 18.5.
    assert found.recall == 1.0
    # The balls of 0, 1 and 2 hold a sample; the nearest to 10 is 8.5 away, outside.
    assert found.coverage == pytest.approx(3 / 4)


def test_the_boundary_belongs_to_precision_and_not_to_density():
    found = neighbour_scores(np.array([[-1.0], [-1.0], [-1.0]]), LINE, neighbours=1)
    assert (found.precision, found.density, found.coverage) == (1.0, 0.0, 0.0)
    # Three equal samples have balls of radius zero, in which no real point lies.
    assert found.recall == 0.0


def test_collapse_noise_and_copies():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(200, 3))
    collapsed = neighbour_scores(real[:1] + 1e-3 * rng.normal(size=(200, 3)), real)
    assert collapsed.precision == 1.0 and collapsed.recall < 0.05 and collapsed.coverage < 0.2
    far = neighbour_scores(real + 100.0, real)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)
    same = neighbour_scores(rng.normal(size=(200, 3)), real)
    assert min(same.precision, same.recall, same.coverage) > 0.8 and 0.8 < same.density < 1.2
    copies = neighbour_scores(real, real)
    assert (copies.precision, copies.recall, copies.coverage) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("k", [1, 3])
def test_it_equals_loops_over_all_pairs(k, monkeypatch):
    rng = np.random.default_rng(k)
    real, fake = rng.normal(size=(23, 2)), rng.normal(size=(17, 2)) + 0.7

    def distance(a, b):
        return float(np.sqrt(np.sum((a - b) ** 2)))

    def radius(points, i):
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    balls = [radius(real, i) for i in range(len(real))]
    mine = [radius(fake, j) for j in range(len(fake))]
    hits = [[distance(f, r) < balls[i] for i, r in enumerate(real)] for f in fake]
    monkeypatch.setattr(
        neighbour_balls, "_parts", lambda n, _: [slice(s, min(s + 5, n)) for s in range(0, n, 5)]
    )  # several parts must give what one gives
    found = neighbour_scores(fake, real, neighbours=k)
    assert found.precision == pytest.approx(np.mean([any(row) for row in hits]))
    assert found.density == pytest.approx(np.sum(hits) / k / len(fake))
    assert found.coverage == pytest.approx(np.mean([any(column) for column in zip(*hits, strict=True)]))
    recalled = [any(distance(f, r) < mine[j] for j, f in enumerate(fake)) for r in real]
    assert found.recall == pytest.approx(np.mean(recalled))


def test_bad_input_is_named():
    with pytest.raises(SpecError, match=r"neighbours=4 must lie in \[1, 3\]"):
        neighbour_scores(LINE, LINE, neighbours=4)
    with pytest.raises(SpecError, match="1 and 2 dimensions"):
        neighbour_scores(LINE, np.ones((5, 2)), neighbours=1)
