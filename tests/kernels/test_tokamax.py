"""The tokamax backend against NumPy loops, where the library is installed; and the error where it is not."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from moejax_kernels.grouped_matmul import grouped_gated_matmul, grouped_matmul

from tests.kernels import numpy_oracle as oracle

INSTALLED = importlib.util.find_spec("tokamax") is not None
SIZES = np.array([4, 0, 7, 3])


@pytest.fixture(autouse=True)
def _flags_parsed():
    """tokamax reads absl flags and would parse the command line of pytest."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.lenient
@pytest.mark.skipif(not INSTALLED, reason="tokamax is not installed (extra `tokamax`)")
@pytest.mark.parametrize("transposed", [False, True])
def test_against_loops(transposed):
    x, dy, bias = draw(17, 5).at[14:].set(jnp.nan), draw(17, 3, seed=1), draw(4, 3, seed=2)
    w = draw(4, *((3, 5) if transposed else (5, 3)), seed=3)

    def product(x, w, bias):
        return grouped_matmul(
            x, w, jnp.asarray(SIZES), bias=bias, transposed=transposed, activation="silu", implementation="tokamax"
        )

    y, pullback = jax.vjp(product, x, w, bias)
    expected = oracle.product(x, w, bias, SIZES, dy, transposed=transposed, activation="silu")
    for found, wanted in zip((y, *pullback(dy)), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=5e-5, atol=5e-5)


@pytest.mark.lenient
@pytest.mark.skipif(not INSTALLED, reason="tokamax is not installed (extra `tokamax`)")
def test_gated_pair():
    x, gate, up, dy = draw(17, 5), draw(4, 5, 3, seed=1), draw(4, 5, 3, seed=2), draw(17, 3, seed=3)
    y, pullback = jax.vjp(
        lambda *a: grouped_gated_matmul(*a, jnp.asarray(SIZES), implementation="tokamax"), x, gate, up
    )
    for found, wanted in zip((y, *pullback(dy)), oracle.gated(x, gate, up, SIZES, dy), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=5e-5, atol=5e-5)


@pytest.mark.skipif(INSTALLED, reason="tokamax is installed")
def test_says_what_to_install():
    with pytest.raises(ImportError, match=r"pip install 'moejax\[tokamax\]'"):
        grouped_matmul(draw(4, 2), draw(2, 2, 3), jnp.array([2, 2]), implementation="tokamax")
