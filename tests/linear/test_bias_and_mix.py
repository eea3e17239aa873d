"""Biases by expert and mixtures of parameters, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.layouts import Buffers, Ragged
from moejax.linear.dense import Dense, init_dense
from moejax.linear.epilogue import add_bias
from moejax.linear.mix import mix

BIAS = jnp.array([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])


def test_bias_on_buffers():
    out = add_bias(Buffers(jnp.ones((3, 2, 2))), BIAS)
    np.testing.assert_array_equal(out.tokens, [[[2, 3]] * 2, [[11, 21]] * 2, [[101, 201]] * 2])


def test_bias_on_rows():
    # Two rows of expert 0, none of expert 1, one of expert 2, and one of nobody that stays zero.
    x = Ragged(jnp.zeros((4, 2)), jnp.array([2, 0, 1]))
    np.testing.assert_array_equal(add_bias(x, BIAS).tokens, [[1, 2], [1, 2], [100, 200], [0, 0]])
    gradient = jax.grad(lambda bias: jnp.sum(add_bias(x, bias).tokens))(BIAS)
    np.testing.assert_array_equal(gradient, [[2, 2], [0, 0], [1, 1]])


def test_mix():
    kernel = jnp.arange(8.0).reshape(2, 2, 2)
    params = {"up": Dense(kernel), "bias": jnp.array([[1.0, 3.0], [5.0, 7.0]])}
    mixed = mix(params, jnp.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]))
    # 0.25 * [0 1; 2 3] + 0.75 * [4 5; 6 7] = [3 4; 5 6];   0.25 * [1 3] + 0.75 * [5 7] = [4 6]
    np.testing.assert_array_equal(mixed["up"].kernel[0], [[3, 4], [5, 6]])
    np.testing.assert_array_equal(mixed["up"].kernel[1], kernel[0])
    np.testing.assert_array_equal(mixed["bias"], [[4, 6], [1, 3], [3, 5]])


def test_dense_products_agree_between_layouts():
    leaf = init_dense(jax.random.key(0), (3, 4, 5), jax.nn.initializers.normal(1.0))
    x = jax.random.normal(jax.random.key(1), (6, 4))
    rows = leaf.grouped_matmul(Ragged(x, jnp.array([2, 2, 2]))).tokens
    buffers = leaf.grouped_matmul(Buffers(x.reshape(3, 2, 4))).tokens
    np.testing.assert_allclose(rows, buffers.reshape(6, 5), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Dense(leaf.materialise()[1]).matmul(x)[2:4], rows[2:4], rtol=1e-5, atol=1e-6)
