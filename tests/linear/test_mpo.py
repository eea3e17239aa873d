"""The MPO leaf: exact with full bonds, the documented bound without, what is shared, and modes by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.linear.mpo import balanced_modes, decompose, from_tensors, tensor_shapes
from tests.linear.leaf_examples import close

MODES = {"three": ((2, 3, 2), (2, 2, 2)), "five": ((1, 2, 3, 2, 1), (2, 1, 2, 1, 2)), "one": ((12,), (8,))}


def rebuilt(tensors):
    """By the definition: entry by entry a product of matrices."""
    d, f = ([t.shape[k] for t in tensors] for k in (1, 2))
    kernel = np.zeros((np.prod(d), np.prod(f)))
    for i in np.ndindex(*d):
        for j in np.ndindex(*f):
            entry = np.ones((1, 1))
            for tensor, a, b in zip(tensors, i, j, strict=True):
                entry = entry @ tensor[:, a, b]
            kernel[np.ravel_multi_index(i, d), np.ravel_multi_index(j, f)] = entry.item()
    return kernel


@pytest.mark.parametrize("modes", MODES)
def test_full_bonds_rebuild_the_kernel(modes):
    kernel = np.random.default_rng(0).normal(size=(12, 8))
    tensors = decompose(kernel, *MODES[modes])
    assert [t.shape for t in tensors] == list(tensor_shapes(*MODES[modes]))
    np.testing.assert_allclose(rebuilt(tensors), kernel, atol=1e-12)
    leaf = from_tensors(tensors)
    close(leaf.materialise(), kernel.astype(np.float32))
    x = np.random.default_rng(1).normal(size=(4, 12)).astype(np.float32)
    close(leaf.matmul(jnp.asarray(x)), x @ kernel.astype(np.float32))


def test_cut_bonds_keep_the_bound():
    kernel = np.random.default_rng(0).normal(size=(12, 8))
    inputs, outputs = MODES["three"]
    error = np.sum((rebuilt(decompose(kernel, inputs, outputs, bond_dim=3)) - kernel) ** 2)
    paired = kernel.reshape(*inputs, *outputs).transpose(0, 3, 1, 4, 2, 5)
    tails = [np.sum(np.linalg.svd(paired.reshape(rows, -1))[1][3:] ** 2) for rows in (4, 24)]
    assert max(tails) - 1e-9 <= error <= sum(tails) + 1e-9
    exact = decompose(rebuilt(decompose(kernel, inputs, outputs, bond_dim=3)), inputs, outputs, bond_dim=3)
    np.testing.assert_allclose(rebuilt(exact), rebuilt(decompose(kernel, inputs, outputs, bond_dim=3)), atol=1e-10)


def test_the_central_tensor_is_counted_once():
    shapes = tensor_shapes((2, 3, 2), (2, 2, 2), bond_dim=4)
    assert shapes == ((1, 2, 2, 4), (4, 3, 2, 4), (4, 2, 2, 1))
    leaf = from_tensors([np.ones(shape) for shape in shapes], num_experts=5)
    assert leaf.central.shape == shapes[1]
    assert leaf.num_params() == 4 * 3 * 2 * 4 + 5 * (2 * 2 * 4 + 4 * 2 * 2)
    # Rows of 12 numbers: 1*6 times a 2 by 8 matrix, then 2*2 times 12 by 8, then 4*1 times 8 by 2.
    assert leaf.flops_per_row() == 2 * (6 * 2 * 8 + 4 * 12 * 8 + 4 * 8 * 2)
    assert leaf.shared_fields() == ("central",)
    four = from_tensors([np.ones(shape) for shape in tensor_shapes((2,) * 4, (2,) * 4)], num_experts=3)
    assert [t.shape[-4:] for t in four.tensors()] == list(tensor_shapes((2,) * 4, (2,) * 4))


def test_modes():
    assert balanced_modes(12, 3) == (2, 3, 2)
    assert balanced_modes(7, 3) == (1, 7, 1)
    assert sorted(balanced_modes(64, 3)) == [4, 4, 4]
    for width, count in ((1, 1), (96, 5), (4096, 5), (14336, 4)):
        modes = balanced_modes(width, count)
        assert len(modes) == count
        assert np.prod(modes) == width


def test_bad_modes():
    with pytest.raises(SpecError, match=r"do not multiply to \(12, 8\)"):
        decompose(np.zeros((12, 8)), (2, 3), (4, 2))
    with pytest.raises(SpecError, match="equally many"):
        tensor_shapes((2, 3), (4,))
    with pytest.raises(SpecError, match="bond_dim=0 must be at least 1"):
        tensor_shapes((2, 3), (4, 1), bond_dim=0)
