"""The shared-basis leaf: the paper's formula on its own kernels, one-hot mixtures, convex ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.linear.shared_basis import SharedBasis
from tests.linear.leaf_examples import close


def test_the_papers_formula():
    # Kernels of the paper multiply from the left: W_e = A_e tanh(sum_j alpha_ej B_j), A_e [F R], B_j [R D].
    draw = np.random.default_rng(0)
    a, b, alpha = draw.normal(size=(3, 5, 2)), draw.normal(size=(4, 2, 6)), draw.normal(size=(3, 4))
    w = np.stack([a[e] @ np.tanh(sum(alpha[e, j] * b[j] for j in range(4))) for e in range(3)])
    own, mixture, basis = (jnp.asarray(m, jnp.float32) for m in (a.swapaxes(1, 2), alpha, b.swapaxes(1, 2)))
    leaf = SharedBasis(own, mixture, basis, function="tanh")
    close(leaf.materialise(), w.swapaxes(1, 2).astype(np.float32))


def test_one_basis_per_expert_holds_any_kernel():
    # f = identity, as many bases as experts, one-hot alpha and full rank: the basis is the kernel, own the identity.
    kernel = np.random.default_rng(1).normal(size=(3, 6, 5)).astype(np.float32)
    eyes = jnp.broadcast_to(jnp.eye(5), (3, 5, 5))
    leaf = SharedBasis(eyes, jnp.eye(3), jnp.asarray(kernel), function="identity")
    np.testing.assert_array_equal(leaf.materialise(), kernel)
    other = SharedBasis(
        jnp.broadcast_to(jnp.eye(6), (3, 6, 6)), jnp.eye(3), jnp.asarray(kernel), function="identity", side="output"
    )
    np.testing.assert_array_equal(other.materialise(), kernel)


def test_convex_mixtures():
    # Softmax of (0, log 3) is (1/4, 3/4): 1/4 * 4 + 3/4 * 8 = 7.
    alpha = jnp.array([[0.0, np.log(3.0)]], jnp.float32)
    leaf = SharedBasis(jnp.ones((1, 1, 1)), alpha, jnp.array([[[4.0]], [[8.0]]]), function="identity", convex=True)
    np.testing.assert_allclose(leaf.materialise(), [[[7.0]]], rtol=1e-6)


def test_counts():
    leaf = SharedBasis(jnp.zeros((3, 2, 5)), jnp.zeros((3, 4)), jnp.zeros((4, 6, 2)))
    assert leaf.num_params() == 4 * 6 * 2 + 3 * (4 + 2 * 5)
    assert leaf.flops_per_row() == 2 * 2 * (6 + 5)
    assert leaf.flops_once() == 2 * 4 * 6 * 2


def test_unknown_names():
    leaf = SharedBasis(jnp.zeros((3, 2, 5)), jnp.zeros((3, 4)), jnp.zeros((4, 6, 2)))
    with pytest.raises(SpecError, match="function='thanh' is unknown. Did you mean 'tanh'"):
        leaf.replace(function="thanh").materialise()
    with pytest.raises(SpecError, match="side='outputs' is unknown. Did you mean 'output'"):
        leaf.replace(side="outputs").materialise()
