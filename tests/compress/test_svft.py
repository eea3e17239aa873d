"""SVFT: sparse changes in the singular basis, their patterns, and what the full pattern reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.contract import SpectralMethod
from moejax.compress.svft import SVFT
from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.linear.freezing import trainable
from tests.compress.small_banks import random

METHODS = {
    "plain": (SVFT(), 5),
    "banded": (SVFT(pattern="banded", band=2), 5 + 2 * (4 + 3)),  # a main diagonal of 5, two of 4 and two of 3
    "banded, complete": (SVFT(pattern="banded", band=1, complete=True), None),
    "random": (SVFT(pattern="random", count=7), 7),
    "random, all": (SVFT(pattern="random", count=999), 25),
    "full": (SVFT(pattern="full"), 25),
    "full, complete": (SVFT(pattern="full", complete=True), 35),
}


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (3, 5, 7)])
@pytest.mark.parametrize("name", METHODS)
def test_the_start_is_the_kernel_and_the_count_that_of_the_pattern(name, shape):
    (method, entries), kernel = METHODS[name], random(0, *shape)
    leaf = method.convert(kernel)
    assert isinstance(method, SpectralMethod)
    np.testing.assert_allclose(leaf.materialise(), kernel, atol=1e-6)
    if entries is None:  # 5 on the main diagonal of a 5 by 7, 5 on the one that leaves the square, 4 on the other
        entries = 14
    assert method.num_trained(kernel) == leaf.coefficients.size == entries * (3 if len(shape) == 3 else 1)
    flags = trainable(leaf)
    assert flags.coefficients and not (flags.u or flags.v or flags.residual)


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (6, 4)])
def test_the_full_pattern_reaches_every_change(shape):
    kernel, change = random(0, *shape), random(1, *shape)
    leaf = SVFT(pattern="full", complete=True).convert(kernel)
    u, v = np.asarray(leaf.u, np.float64), np.asarray(leaf.v, np.float64)
    moved = leaf.replace(coefficients=jnp.asarray((u.T @ change @ v.T).reshape(-1), jnp.float32))
    np.testing.assert_allclose(moved.materialise(), kernel + change, atol=1e-4)


def test_the_plain_pattern_moves_singular_values_only():
    leaf = SVFT().convert(np.diag([2.0, 3.0]))  # singular values 3 and 2
    moved = leaf.replace(coefficients=jnp.array([0.5, -1.0]))
    np.testing.assert_allclose(moved.materialise(), np.diag([1.0, 3.5]), atol=1e-6)


def test_top_k_takes_the_most_aligned_pairs():
    """Of a rotation by 90 degrees with values 2 and 1: u_1 is along v_2 and u_2 along v_1, so the pairs are off the diagonal."""
    kernel = np.array([[0.0, -1.0], [2.0, 0.0]])
    method = SVFT(pattern="top_k", count=2)
    leaf = method.convert(kernel)
    assert leaf.pattern == (1, 2)
    assert method.num_trained(kernel) == 2
    several = method.convert(np.stack([kernel, np.diag([3.0, 1.0])]))
    assert several.pattern == ((1, 2), (0, 3))  # each expert has its own
    with pytest.raises(SpecError, match="not square"):
        method.convert(random(0, 3, 4))


def test_tuning_trains_the_coefficients_alone():
    """Gradient descent on the full pattern reaches a target that rank one cannot."""
    kernel, target = random(0, 4, 4), jnp.asarray(random(1, 4, 4), jnp.float32)
    leaf = SVFT(pattern="full").convert(kernel)

    def loss(leaf):
        return jnp.sum((leaf.materialise() - target) ** 2)

    gradient = jax.jit(jax.grad(loss))
    tuned = leaf
    for _ in range(60):
        tuned = jax.tree.map(lambda value, slope: value - 0.25 * slope, tuned, gradient(tuned))
    assert loss(tuned) < 1e-6 * loss(leaf)
    for name in ("u", "v", "residual"):
        np.testing.assert_array_equal(getattr(tuned, name), getattr(leaf, name))


def test_bad_fields():
    with pytest.raises(SpecError, match="pattern='bandd' is not allowed. Did you mean 'banded'"):
        build_method("compress", {"name": "svft", "pattern": "bandd"})
    with pytest.raises(SpecError, match="needs a count"):
        SVFT(pattern="random")
    with pytest.raises(SpecError, match="band=-1"):
        SVFT(pattern="banded", band=-1)
