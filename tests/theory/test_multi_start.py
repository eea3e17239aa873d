"""Starts keep the moments of what they split, climbs keep what is held, and the highest wins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.multi_start import SHAPES, climb, directions, highest, split_starts
from moejax.theory.newton import Fit, by_autodiff
from moejax.theory.softmax_gaussian import pack
from moejax.theory.studies.over_specified_softmax import TRUTH


def test_starts_split_every_expert_in_every_shape_and_keep_its_moments():
    starts = split_starts(pack(TRUTH), 10**8, np.random.default_rng(0)).reshape(2, 3, 3, 5)
    rows = pack(TRUTH).reshape(2, 5)
    for cell in range(2):
        for shape in range(len(SHAPES)):
            pair, other = starts[cell, shape, :2], starts[cell, shape, 2]
            np.testing.assert_array_equal(other, rows[1 - cell])
            mass = np.exp(pair[:, 0])
            assert mass.sum() == pytest.approx(np.exp(rows[cell, 0]))
            mean = mass @ pair[:, 3]
            assert mean == pytest.approx(rows[cell, 3])
            assert mass @ (np.exp(pair[:, 4]) + (pair[:, 3] - mean) ** 2) == pytest.approx(np.exp(rows[cell, 4]))
    # 0.9 standard deviations of 0.5 times n^(-1/8) = 0.1; 1.6 times the variance times n^(-1/4) = 0.01
    assert starts[0, 0, 0, 3] - 2.0 == pytest.approx(0.045)
    assert np.exp(starts[0, 1, :2, 4]) == pytest.approx([0.25 * 1.016, 0.25 * 0.984])
    assert np.exp(starts[1, 2, :2, 0]) == pytest.approx([0.85, 0.15])


def test_climbs_hold_the_shares_and_the_last_gate():
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        start, target = jnp.asarray(draw.normal(size=15)), jnp.asarray(draw.normal(size=15))
        moves = jnp.asarray(directions(15))
        fit = climb(by_autodiff(lambda p: -jnp.sum((p - target) ** 2)), start, moves, iterations=20)
        found = np.asarray(fit.params - start)
    assert moves.shape == (15, 12) and found[10] == 0 and found[11] == 0
    assert found[0] == pytest.approx(found[5]) and found[0] == pytest.approx(
        np.mean(np.asarray(target - start)[[0, 5]])
    )
    held = [0, 5, 10, 11]
    np.testing.assert_allclose(np.delete(found, held), np.delete(np.asarray(target - start), held), atol=1e-8)


def test_the_highest_is_finite():
    with jax.enable_x64(True):
        value = jnp.array([[1.0, 3.0, jnp.nan], [jnp.inf, 0.5, 0.2]])
        params = jnp.arange(12.0).reshape(2, 3, 2)
        best, which = highest(Fit(params, value, value, value))
    assert which.tolist() == [1, 1] and best.params.tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert best.value.tolist() == [3.0, 0.5]


def test_what_is_refused():
    draw = np.random.default_rng(0)
    with pytest.raises(SpecError, match="at least 2 true experts, not 1"):
        split_starts(pack(TRUTH)[:5], 1000, draw)
    with pytest.raises(SpecError, match="at least 100 examples, not 50"):
        split_starts(pack(TRUTH), 50, draw)
