"""Budgets: never exceeded, within one step, best by gain where the gains say so, and hand-worked cases."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from moejax.compress import allocation
from moejax.compress.allocation import Matrix, allocate
from moejax.core.errors import SpecError


def cost(matrices, ranks):
    return sum(m.dense_cost if r is None else r * m.rank_cost for m, r in zip(matrices, ranks, strict=True))


def test_one_matrix():
    matrix = Matrix(4, 6, 0)
    assert (matrix.rank_cost, matrix.dense_cost, matrix.largest_rank) == (10, 24, 2)  # rank 3 would cost 30
    for budget, rank in [(10, 1), (19, 1), (20, 2), (23, 2), (24, None), (100, None)]:
        assert allocate([matrix], allocation.uniform([matrix]), Fraction(budget)) == [rank]
    with pytest.raises(SpecError, match=r"budget of 9 params.*smallest reachable is 10 \(budget=0.4167\)"):
        allocate([matrix], allocation.uniform([matrix]), Fraction(9))


def test_a_matrix_too_narrow_stays_dense():
    assert Matrix(1, 9, 0).largest_rank == 0
    narrow = [Matrix(1, 9, 0), Matrix(4, 6, 1)]
    assert allocate(narrow, allocation.uniform(narrow), Fraction(19)) == [None, 1]


def test_uniform_is_the_same_fraction():
    matrices = [Matrix(400, 400, 0), Matrix(400, 1600, 1), Matrix(100, 300, 2)]
    ranks = allocate(matrices, allocation.uniform(matrices), allocation.dense_total(matrices) / 2)
    parts = [float(r * m.rank_cost / m.dense_cost) for r, m in zip(ranks, matrices, strict=True)]
    assert np.ptp(parts) < 5 * 400 / 30_000  # less than a rank of the largest, 2000, is left for the smallest's of 400


def test_shares():
    matrices = [Matrix(100, 100, 0), Matrix(100, 100, 1)]
    ranks = allocate(matrices, allocation.uniform(matrices, [1 / 3, 1.0]), Fraction(200 * 40))
    assert ranks == [10, 30]


def test_experts_of_a_bank_are_dense_together():
    bank = [Matrix(4, 6, 0)] * 3
    urgency = allocation.uniform(bank)
    assert allocate(bank, urgency, Fraction(72)) == [None] * 3
    assert allocate(bank, urgency, Fraction(71)) == [
        2,
        2,
        2,
    ]  # one dense expert would be affordable, a third of a leaf not
    assert sorted(allocate(bank, urgency, Fraction(45))) == [1, 1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_never_exceeded_and_within_one_step(seed):
    draw = np.random.default_rng(seed)
    matrices = []
    for number in range(5):
        sizes = (int(draw.integers(1, 30)), int(draw.integers(1, 30)))
        experts = int(draw.integers(1, 4))
        price = Fraction(1) if seed % 2 else Fraction(2, experts)
        matrices += [Matrix(*sizes, number, price)] * experts
    energies = [np.sort(draw.random(int(draw.integers(1, m.largest_rank + 3))))[::-1] for m in matrices]
    rests = list(draw.random(len(matrices)))
    least, total = allocation.smallest(matrices), allocation.dense_total(matrices)
    budget = least + (total - least) * Fraction(int(draw.integers(0, 100)), 100)
    for urgency in (
        allocation.uniform(matrices),
        allocation.by_energy(matrices, energies, rests),
        allocation.by_learned_ranks(matrices, list(draw.random(len(matrices)) * 10)),
    ):
        ranks = allocate(matrices, urgency, budget)
        left = budget - cost(matrices, ranks)
        assert left >= 0
        for matrix, rank in zip(matrices, ranks, strict=True):
            if rank is not None and rank < matrix.largest_rank:
                assert left < matrix.rank_cost
        for number in range(5):
            own = [(m, r) for m, r in zip(matrices, ranks, strict=True) if m.weight == number]
            if all(r == m.largest_rank for m, r in own) and own[0][1]:
                assert left < sum(m.last_cost for m, _ in own)


def test_by_energy_is_the_best_of_all():
    matrices = [Matrix(5, 5, 0), Matrix(5, 5, 1)]  # equal costs: greedy is exactly optimal
    energies = [np.array([4.0, 1.0, 0.5, 0.1, 0.0]), np.array([3.0, 2.9, 0.2, 0.1, 0.0])]
    ranks = allocate(matrices, allocation.by_energy(matrices, energies, [0.0, 0.0]), Fraction(30))
    kept = {
        pair: energies[0][: pair[0]].sum() + energies[1][: pair[1]].sum()
        for pair in itertools.product([1, 2], [1, 2])
        if sum(pair) == 3
    }
    assert tuple(ranks) == max(kept, key=kept.get) == (1, 2)


def test_relative_energies_ignore_scale_but_not_within_a_bank():
    matrices = [Matrix(5, 5, 0), Matrix(5, 5, 0), Matrix(5, 5, 1)]
    scaled, rests = allocation.relative_energies(
        matrices, [np.array([6.0]), np.array([1.0]), np.array([100.0])], [1.0, 0.0, 0.0]
    )
    np.testing.assert_allclose([*scaled[0], *scaled[1], *scaled[2]], [0.75, 0.125, 1])
    np.testing.assert_allclose(rests, [0.125, 0, 0])


def test_by_sensitivity():
    # The loss of the first falls by 4 over 10 ranks, of the second by 1: all goes to the first until its curve is flat.
    matrices = [Matrix(100, 100, 0), Matrix(100, 100, 1)]
    curves = [([1, 11, 50], [5.0, 1.0, 1.0]), ([1, 50], [2.0, 1.0])]
    urgency = allocation.by_sensitivity(matrices, curves)
    assert allocate(matrices, urgency, Fraction(200 * 12)) == [11, 1]
    assert allocate(matrices, urgency, Fraction(200 * 20)) == [11, 9]


def test_losses_that_do_not_fall():
    matrices = [Matrix(20, 20, 0)]
    (steps,) = allocation.by_sensitivity(matrices, [([1, 3, 5, 10], [3.0, 3.5, 1.0, 1.0])])
    np.testing.assert_allclose(steps[1] * 40, 0.5)  # the bump at 3 is no part of the hull: (3 - 1) / 4 per rank
    np.testing.assert_allclose(steps[5:], 0)


def test_part_of():
    assert allocation.part_of(10, 0.3) == 3
