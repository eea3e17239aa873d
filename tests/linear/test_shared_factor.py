"""The shared-factor leaf by hand: which side is shared, and what it costs."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers
from moejax.linear.low_rank import LowRank
from moejax.linear.shared_factor import SharedFactor
from tests.linear.leaf_examples import close, normal


def test_by_hand():
    # u = (1 2)^T shared, v_0 = (1 0), v_1 = (0 3): the row (1 1) meets 3, so it gives (3 0) and (0 9).
    leaf = SharedFactor(jnp.array([[1.0], [2.0]]), jnp.array([[[1.0, 0.0]], [[0.0, 3.0]]]))
    found = leaf.grouped_matmul(Buffers(jnp.ones((2, 1, 2)))).tokens
    np.testing.assert_array_equal(found, [[[3, 0]], [[0, 9]]])
    np.testing.assert_array_equal(leaf.materialise(), [[[1, 0], [2, 0]], [[0, 3], [0, 6]]])


def test_counts():
    assert SharedFactor(jnp.zeros((6, 3)), jnp.zeros((4, 3, 5))).num_params() == 3 * (6 + 4 * 5)
    assert SharedFactor(jnp.zeros((4, 6, 3)), jnp.zeros((3, 5))).num_params() == 3 * (4 * 6 + 5)
    assert SharedFactor(jnp.zeros((4, 6, 3)), jnp.zeros((3, 5))).flops_per_row() == 2 * 3 * 11


def test_shared_side_also_where_layers_are_stacked():
    assert SharedFactor(jnp.zeros((2, 6, 3)), jnp.zeros((2, 4, 3, 5))).shared_fields() == ("u",)
    assert SharedFactor(jnp.zeros((2, 4, 6, 3)), jnp.zeros((2, 3, 5))).shared_fields() == ("v",)


def test_nothing_shared_is_low_rank():
    u, v, x = normal(0, 3, 6, 2), normal(1, 3, 2, 5), Buffers(normal(2, 3, 4, 6))
    close(SharedFactor(u, v).grouped_matmul(x), LowRank(u, v).grouped_matmul(x))


def test_no_bank():
    with pytest.raises(SpecError, match=r"u \(6, 3\) and v \(3, 5\) are no bank"):
        SharedFactor(jnp.zeros((6, 3)), jnp.zeros((3, 5))).grouped_matmul(Buffers(jnp.zeros((2, 1, 6))))
