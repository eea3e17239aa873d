"""SVDiff: the kernel is what it was, its singular values alone move, and several tunings add up."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moejax.compress.contract import SpectralMethod
from moejax.compress.svdiff import SVDiff
from moejax.core.errors import SpecError
from moejax.linear.freezing import frozen_patterns, trainable
from moejax.train.optimizers import Optimizer
from tests.compress.small_banks import random


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (3, 5, 7)])
def test_the_start_is_the_kernel(shape):
    kernel = random(0, *shape)
    method = SVDiff()
    leaf = method.convert(kernel)
    assert isinstance(method, SpectralMethod)
    np.testing.assert_allclose(leaf.materialise(), kernel, atol=1e-5)
    assert method.num_trained(kernel) == leaf.shift.size == (15 if len(shape) == 3 else 5)
    x = jnp.asarray(random(1, 4, shape[-2]), jnp.float32)
    if len(shape) == 2:
        np.testing.assert_allclose(leaf.matmul(x), x @ jnp.asarray(kernel, jnp.float32), atol=1e-4)


def test_a_diagonal_kernel_by_hand():
    # Singular values 3 and 2; shifts 1 and -5 make them 4 and relu(-3) = 0.
    leaf = SVDiff().convert(np.diag([2.0, 3.0]))
    np.testing.assert_allclose(leaf.spectrum, [3.0, 2.0], atol=1e-6)
    moved = leaf.replace(shift=jnp.array([1.0, -5.0]))
    np.testing.assert_allclose(moved.materialise(), np.diag([0.0, 4.0]), atol=1e-6)


def test_shifts_of_two_tunings_add_up():
    leaf = SVDiff().convert(random(0, 5, 4))
    one, other = jnp.asarray(random(1, 4) * 0.05, jnp.float32), jnp.asarray(random(2, 4) * 0.05, jnp.float32)
    base = np.asarray(leaf.materialise())
    moves = [np.asarray(leaf.replace(shift=shift).materialise()) - base for shift in (one, other, one + other)]
    np.testing.assert_allclose(moves[0] + moves[1], moves[2], atol=1e-5)


def test_tuning_lowers_the_loss_and_leaves_the_basis():
    """A kernel whose singular values were scaled: the tuning finds them, through the optimiser of a run."""
    kernel = random(0, 6, 4)
    u, values, v = np.linalg.svd(kernel, full_matrices=False)
    x = jnp.asarray(random(1, 64, 6), jnp.float32)
    y = x @ jnp.asarray((u * (values * [1.5, 1.0, 0.5, 0.0])) @ v, jnp.float32)
    params = {"layer": {"kernel": SVDiff().convert(kernel), "bias": jnp.zeros(4)}}
    frozen = (*frozen_patterns(params), "bias$")
    assert [name for name, flag in _flat(trainable(params)) if flag] == ["layer/bias", "layer/kernel/shift"]
    optimiser = Optimizer(name="sgd", learning_rate=0.05, schedule="constant", frozen=frozen).build(params, 200)

    def loss(params):
        return jnp.mean((params["layer"]["kernel"].matmul(x) - y) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    first, state = loss(params), optimiser.init(params)
    tuned = params
    for _ in range(200):
        tuned, state = step(tuned, state)
    assert loss(tuned) < 1e-3 * first
    before, after = params["layer"]["kernel"], tuned["layer"]["kernel"]
    for name in ("u", "spectrum", "v"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    found = np.sort(np.linalg.svd(np.asarray(after.materialise()), compute_uv=False))
    np.testing.assert_allclose(found, np.sort(values * [1.5, 1.0, 0.5, 0.0]), atol=0.1)


def _flat(tree):
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


@pytest.mark.parametrize("kernel", [np.zeros((4, 3)), np.ones((4, 3)), random(0, 4, 1) @ random(1, 1, 3)])
def test_kernels_of_lower_rank(kernel):
    np.testing.assert_allclose(SVDiff().convert(kernel).materialise(), kernel, atol=1e-6)


def test_a_kernel_that_is_not_finite():
    with pytest.raises(SpecError, match="NaN or infinite"):
        SVDiff().convert(np.full((2, 2), np.nan))
