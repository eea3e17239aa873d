"""SVFit: the largest singular values train, the rest of the kernel stays beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.contract import SpectralMethod
from moejax.compress.svfit import SVFit
from moejax.core.errors import SpecError
from moejax.linear.freezing import trainable
from tests.compress.small_banks import random


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (3, 5, 7)])
@pytest.mark.parametrize("rank", [1, 3, 5, 99])
def test_the_start_is_the_kernel(shape, rank):
    kernel, method = random(0, *shape), SVFit(rank=rank)
    leaf = method.convert(kernel)
    assert isinstance(method, SpectralMethod)
    np.testing.assert_allclose(leaf.materialise(), kernel, atol=1e-5)
    own = min(rank, 5)  # a rank above full trains them all
    assert method.num_trained(kernel) == leaf.shift.size == own * (3 if len(shape) == 3 else 1)
    assert (leaf.residual is None) == (rank >= 5)
    trained = sum(
        leaf.size for leaf, flag in zip(jax.tree.leaves(leaf), jax.tree.leaves(trainable(leaf)), strict=True) if flag
    )
    assert trained == method.num_trained(kernel)


def test_a_diagonal_kernel_by_hand():
    # The largest value 3 trains, and may fall below zero; 2 and 1 stay.
    leaf = SVFit(rank=1).convert(np.diag([2.0, 3.0, 1.0]))
    np.testing.assert_allclose(leaf.spectrum, [3.0], atol=1e-6)
    np.testing.assert_allclose(leaf.residual, np.diag([2.0, 0.0, 1.0]), atol=1e-6)
    np.testing.assert_allclose(
        leaf.replace(shift=jnp.array([-4.0])).materialise(), np.diag([2.0, -1.0, 1.0]), atol=1e-6
    )


def test_the_gradient_is_that_of_the_singular_values():
    kernel = random(0, 6, 4)
    leaf, target = SVFit(rank=2).convert(kernel), random(1, 6, 4)
    u, _, v = np.linalg.svd(kernel, full_matrices=False)
    gradient = jax.grad(lambda leaf: jnp.sum(leaf.materialise() * jnp.asarray(target, jnp.float32)))(leaf)
    np.testing.assert_allclose(gradient.shift, np.diagonal(u[:, :2].T @ target @ v[:2].T), atol=1e-5)
    assert not any(np.any(getattr(gradient, name)) for name in ("u", "spectrum", "v", "residual"))


def test_a_kernel_of_lower_rank():
    kernel = random(0, 6, 1) @ random(1, 1, 4)
    np.testing.assert_allclose(SVFit(rank=3).convert(kernel).materialise(), kernel, atol=1e-5)


def test_bad_fields():
    with pytest.raises(SpecError, match="rank=0"):
        SVFit(rank=0)
