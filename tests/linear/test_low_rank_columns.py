"""The low-rank leaf with whole columns: by hand, counts, positions that do not fit, experts picked and cleared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.linear.dense import Dense
from moejax.linear.low_rank_columns import LowRankColumns

E, D, R, F = 3, 4, 2, 5
POSITIONS = ((0, 3), (4, 1), (3, 2))


def array(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def bank(**changes):
    return LowRankColumns(array(0, E, D, R), array(1, E, R, F), array(2, E, D, 2), POSITIONS).replace(**changes)


def dense(leaf):
    """In NumPy, column by column."""
    kernels = np.einsum("edr,erf->edf", np.asarray(leaf.u, np.float64), np.asarray(leaf.v, np.float64))
    for e in range(E):
        for number, position in enumerate(
            leaf.positions[e] if isinstance(leaf.positions[0], tuple) else leaf.positions
        ):
            kernels[e, :, position] += np.asarray(leaf.columns, np.float64)[e, :, number]
    return kernels


def test_by_hand():
    # u v = (1, 2)^T (1, 0, 1) = ((1, 0, 1), (2, 0, 2)); the column (10, 20)^T is added at position 1, (5, 6)^T at 2.
    leaf = LowRankColumns(
        jnp.array([[1.0], [2.0]]), jnp.array([[1.0, 0.0, 1.0]]), jnp.array([[10.0, 5.0], [20.0, 6.0]]), (1, 2)
    )
    np.testing.assert_array_equal(leaf.materialise(), [[1, 10, 6], [2, 20, 8]])
    np.testing.assert_array_equal(leaf.matmul(jnp.array([[1.0, 1.0]])), [[3, 30, 14]])
    assert (leaf.num_params(), leaf.flops_per_row()) == (2 + 3 + 4, 2 * (2 + 3) + 2 * 2 * 2)


@pytest.mark.parametrize("changes", [{}, {"positions": (4, 0)}])
def test_it_is_what_numpy_says(changes):
    leaf = bank(**changes)
    np.testing.assert_allclose(leaf.materialise(), dense(leaf), atol=1e-5)
    x = array(3, 9, D).at[7:].set(0)
    for layout in (Ragged(x, jnp.array([4, 0, 3])), Buffers(x.reshape(E, 3, D))):
        found = jax.jit(LowRankColumns.grouped_matmul)(leaf, layout)
        wanted = Dense(jnp.asarray(dense(leaf), jnp.float32)).grouped_matmul(layout)
        np.testing.assert_allclose(found.tokens, wanted.tokens, atol=1e-4)


def test_counts_with_ranks():
    leaf = bank(ranks=(2, 0, 1))
    assert leaf.num_params() == 3 * (D + F) + E * D * 2
    assert leaf.flops_per_row() == 2 * 1 * (D + F) + 2 * D * 2


def test_experts_picked_and_cleared():
    leaf = bank(ranks=(2, 0, 1))
    kernels = np.asarray(leaf.materialise())
    np.testing.assert_allclose(leaf.take((2, 0)).materialise(), kernels[[2, 0]], atol=1e-6)
    cleared = leaf.cleared()
    assert cleared.positions == (0, 1, 2, 3, 4) and cleared.ranks is None
    np.testing.assert_allclose(cleared.materialise(), kernels, atol=1e-6)


@pytest.mark.parametrize("positions", [(0,), ((0, 1), (1, 2)), (1, 5)])
def test_positions_that_do_not_fit(positions):
    with pytest.raises(SpecError, match="each of the 2 needs one position below 5"):
        bank(positions=positions).materialise()
