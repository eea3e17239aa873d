"""The spectral leaf: no shift is the kernel itself, shifts act on singular values, and nothing else moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moejax.linear.dense import Dense
from moejax.linear.freezing import frozen_patterns, trainable
from moejax.linear.spectral import Spectral
from moejax.train.optimizers import Optimizer
from tests.linear.leaf_examples import close, normal


def of_kernel(kernel, rank=None, *, rectified=True):
    u, s, v = np.linalg.svd(np.asarray(kernel, np.float64), full_matrices=False)
    rank = rank or len(s)
    rest = kernel - (u[:, :rank] * s[:rank]) @ v[:rank]
    arrays = [jnp.asarray(a, jnp.float32) for a in (u[:, :rank], s[:rank], np.zeros(rank), v[:rank])]
    return Spectral(*arrays, None if rank == len(s) else jnp.asarray(rest, jnp.float32), rectified)


@pytest.mark.parametrize("rank", [None, 2])
def test_no_shift_is_the_kernel(rank):
    kernel = normal(0, 6, 4)
    leaf = of_kernel(kernel, rank)
    close(leaf.materialise(), kernel)
    close(leaf.matmul(normal(1, 3, 6)), normal(1, 3, 6) @ kernel)


def test_shifts_by_hand():
    # diag(3, 1) shifted by (1, -2) is diag(4, max(0, -1)); without the rectifier diag(4, -1).
    leaf = of_kernel(jnp.diag(jnp.array([3.0, 1.0]))).replace(shift=jnp.array([1.0, -2.0]))
    np.testing.assert_allclose(leaf.materialise(), [[4, 0], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(leaf.replace(rectified=False).materialise(), [[4, 0], [0, -1]], atol=1e-6)
    both = leaf.replace(shift=leaf.shift + jnp.array([0.0, 3.0]))
    np.testing.assert_allclose(both.materialise(), [[4, 0], [0, 2]], atol=1e-6)


def test_only_the_shift_trains():
    params = {"a": of_kernel(normal(0, 6, 4), 2), "b": Dense(normal(1, 4, 3))}
    x = normal(2, 5, 6)
    gradient = jax.grad(lambda p: jnp.sum(jnp.sin(p["b"].matmul(p["a"].matmul(x)))))(params)
    assert np.any(gradient["a"].shift)
    for frozen in (gradient["a"].u, gradient["a"].spectrum, gradient["a"].v, gradient["a"].residual):
        assert not np.any(frozen)
    flags = trainable(params)
    assert flags["b"].kernel
    assert flags["a"] == Spectral(False, False, True, False, False)
    patterns = frozen_patterns(params)
    assert len(patterns) == 4
    optimizer = Optimizer(name="adamw", weight_decay=0.1, weight_decay_rules=((".", 1.0),), frozen=patterns)
    transform = optimizer.build(params, 10)
    updates, _ = transform.update(gradient, transform.init(params), params)
    moved = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), params, optax.apply_updates(params, updates)
    )
    assert moved == flags


def test_patterns_find_their_own_names_only():
    params = {"a": of_kernel(normal(0, 3, 3)), "xa": {"u": jnp.zeros(2)}, "a_u": jnp.zeros(2)}
    flags = trainable({"blocks": {"00-01": params}})["blocks"]["00-01"]
    assert flags["xa"]["u"]
    assert flags["a_u"]
    assert not flags["a"].u
    assert trainable(of_kernel(normal(0, 3, 3))).shift


def test_counts():
    leaf = of_kernel(normal(0, 6, 4), 2)
    assert leaf.num_params() == 2 * (6 + 4 + 2) + 24
    assert leaf.flops_per_row() == 2 * 2 * (6 + 4) + 2 * 24
    assert sum(a.size for a, t in zip(jax.tree.leaves(leaf), jax.tree.leaves(trainable(leaf)), strict=True) if t) == 2
