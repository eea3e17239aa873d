"""The indexed leaf: merged experts stand for many, without copies of kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.linear.dense import Dense
from moejax.linear.indexed import Indexed
from moejax.linear.low_rank import LowRank
from tests.linear.leaf_examples import by_einsum, close, normal

INDICES = [(0, 0, 1, 1), (1, 0, 1, 0), (2, 2, 0, 2), (1, 1, 1, 1)]


@pytest.mark.parametrize("index", INDICES)
def test_rows_find_their_kernel(index):
    # Kernels 1, 10, 100 times the identity: each row shows by its factor which one it met.
    kernels = jnp.array([1.0, 10.0, 100.0])[:, None, None] * jnp.broadcast_to(jnp.eye(2), (3, 2, 2))
    leaf = Indexed(Dense(kernels), index)
    factor = np.array([1, 10, 100])[np.array(index)]
    rows = normal(0, 8, 2).at[7:].set(0)
    found = jax.jit(leaf.grouped_matmul)(Ragged(rows, jnp.array([2, 0, 1, 4]))).tokens
    np.testing.assert_allclose(found[:7], rows[:7] * np.repeat(factor, [2, 0, 1, 4])[:, None].astype(np.float32))
    assert not np.any(found[7:])
    buffers = normal(1, 4, 3, 2)
    found = leaf.grouped_matmul(Buffers(buffers)).tokens
    np.testing.assert_allclose(found, buffers * factor[:, None, None].astype(np.float32))


@pytest.mark.parametrize("index", INDICES)
def test_no_array_of_a_kernel_per_expert(index):
    leaf = Indexed(Dense(jnp.zeros((3, 40, 50))), index)
    for x in (Buffers(jnp.zeros((4, 2, 40))), Ragged(jnp.zeros((6, 40)), jnp.array([2, 2, 1, 0]))):
        jaxpr = jax.make_jaxpr(lambda x, leaf=leaf: leaf.grouped_matmul(x))(x)
        sizes = [v.aval.size for equation in jaxpr.jaxpr.eqns for v in equation.outvars]
        assert max(sizes) <= 3 * 40 * 50


def test_clearing_copies():
    leaf = Indexed(LowRank(normal(0, 2, 3, 2), normal(1, 2, 2, 4), (2, 1)), (1, 0, 1))
    whole = leaf.cleared()
    assert isinstance(whole, LowRank)
    assert whole.ranks is None
    close(whole.materialise(), leaf.materialise())
    x = Buffers(normal(2, 3, 2, 3))
    close(whole.grouped_matmul(x).tokens, by_einsum(leaf, x))
    assert leaf.num_params() == 3 * (3 + 4)


def test_a_wrong_index():
    leaf = Dense(jnp.zeros((2, 3, 4)))
    with pytest.raises(SpecError, match="names merged expert 2, but there are 2"):
        Indexed(leaf, (0, 2)).materialise()
    with pytest.raises(SpecError, match="must name one merged expert, 0 or above"):
        Indexed(leaf, (0, -1)).materialise()
    with pytest.raises(SpecError, match="of 3 experts, the rows are of 2; inside shard_map"):
        Indexed(leaf, (0, 1, 0)).grouped_matmul(Buffers(jnp.zeros((2, 1, 3))))
    with pytest.raises(SpecError, match="take one of them first"):
        Indexed(leaf, (0, 1)).matmul(jnp.zeros((1, 3)))
