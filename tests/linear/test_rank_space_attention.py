"""Attention from rank space: the same as with the dense kernels, wherever it applies and where it steps aside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.layers.attention import Attention
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from moejax.linear.rank_space_attention import rank_space_attention

D, R, HEADS = 8, 3, 2


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def both():
    names = ("query", "key", "value", "out")
    low = {name: LowRank(draw(i, D, R), draw(10 + i, R, D)) for i, name in enumerate(names)}
    biases = {f"{name}_bias": draw(20 + i, D) for i, name in enumerate(names)}
    return low | biases, {name: Dense(leaf.materialise()) for name, leaf in low.items()} | biases


@pytest.mark.parametrize("causal", [False, True])
def test_equals_attention_with_dense_kernels(causal):
    low, dense = both()
    x = draw(30, 2, 9, D)
    plain = Attention(num_heads=HEADS, causal=causal)
    y = jax.jit(dataclasses.replace(plain, from_rank_space=True).apply)(low, x)
    np.testing.assert_allclose(y, plain.apply(dense, x), rtol=1e-4, atol=1e-4)
    assert not np.array_equal(y, jax.jit(plain.apply)(low, x))  # it is really another way to the same


def test_what_it_cannot_do_goes_the_usual_way():
    low, dense = both()
    x, mask = draw(30, 2, 9, D), jnp.arange(9)[None, :] < jnp.array([[9], [4]])
    attention = Attention(num_heads=HEADS, from_rank_space=True)
    np.testing.assert_allclose(
        attention.apply(low, x, mask=mask), attention.apply(dense, x, mask=mask), rtol=1e-4, atol=1e-4
    )
    context = draw(31, 2, 3, D)
    found = attention.apply(low, x, context=context)
    np.testing.assert_allclose(found, attention.apply(dense, x, context=context), rtol=1e-4, atol=1e-4)
    assert rank_space_attention(low | {"key": dense["key"]}, x, num_heads=HEADS) is None
    np.testing.assert_allclose(
        attention.apply(low | {"key": dense["key"]}, x), attention.apply(dense, x), rtol=1e-4, atol=1e-4
    )
    dropping = dataclasses.replace(attention, dropout_rate=0.5)
    assert not np.array_equal(dropping.apply(low, x, key=jax.random.key(0)), dropping.apply(low, x))
