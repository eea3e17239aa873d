"""The residual leaf on paper: a core for all, and what each expert adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.layouts import Buffers
from moejax.core.tree import leaf_names
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from moejax.linear.residual import Residual

CORE = jnp.asarray([[1.0, 0.0], [0.0, 2.0]])
DENSE = Dense(jnp.asarray([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]]]))
LOW_RANK = LowRank(
    jnp.asarray([[[1.0], [0.0]], [[0.0], [3.0]]]), jnp.asarray([[[0.0, 1.0]], [[1.0, 0.0]]])
)  # the same kernels


@pytest.mark.parametrize("residual", [DENSE, LOW_RANK])
def test_by_hand(residual):
    # Kernels [1 1; 0 2] and [1 0; 3 2]; rows (1, 1) and (2, -1): (1, 3) and (-1, -2).
    leaf = Residual(CORE, residual)
    np.testing.assert_allclose(leaf.materialise(), [[[1.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [3.0, 2.0]]])
    out = leaf.grouped_matmul(Buffers(jnp.asarray([[[1.0, 1.0]], [[2.0, -1.0]]])))
    np.testing.assert_allclose(out.tokens[:, 0], [[1.0, 3.0], [-1.0, -2.0]])
    mixed = leaf.mix(jnp.asarray([[0.5, 0.5]])).materialise()
    np.testing.assert_allclose(mixed, [[[1.0, 0.5], [1.5, 2.0]]])


def test_counts():
    assert Residual(CORE, DENSE).num_params() == 4 + 8
    assert Residual(CORE, DENSE).flops_per_row() == 8  # the sum of kernels is no product
    assert Residual(CORE, LOW_RANK).num_params() == 4 + 2 * 4
    assert Residual(CORE, LOW_RANK).flops_per_row() == 8 + 8


def test_names_tell_core_and_residual_apart():
    assert leaf_names({"up": Residual(CORE, LOW_RANK)}) == ["up/core", "up/residual/u", "up/residual/v"]
    assert leaf_names({"up": Residual(CORE, DENSE)}) == ["up/core", "up/residual/kernel"]


def test_the_core_gets_the_gradient_of_all_experts():
    x = jnp.asarray([[[1.0, 1.0]], [[2.0, -1.0]]])
    gradient = jax.grad(lambda leaf: jnp.sum(leaf.grouped_matmul(Buffers(x)).tokens))(Residual(CORE, DENSE))
    np.testing.assert_allclose(gradient.core, [[3.0, 3.0], [0.0, 0.0]])  # the sum of the rows, for both outputs
    np.testing.assert_allclose(gradient.residual.kernel[0], [[1.0, 1.0], [1.0, 1.0]])
