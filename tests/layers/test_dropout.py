"""Dropout: nothing without a key, the expectation kept with one, and whole examples dropped by drop_path."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.dropout import dropout
from moejax.layers.drop_path import drop_path


def test_dropout_is_zero_or_scaled() -> None:
    x = jnp.ones((50, 40))
    assert dropout(x, 0.2, key=None) is x
    y = np.asarray(dropout(x, 0.2, key=jax.random.key(0)))
    np.testing.assert_allclose(np.unique(y), [0.0, 1.25])
    assert abs((y == 0).mean() - 0.2) < 0.05  # 2000 draws: standard deviation 0.009


def test_drop_path_drops_examples_as_a_whole_at_a_traced_rate() -> None:
    x = jnp.ones((400, 2, 3))
    y = np.asarray(jax.jit(lambda rate: drop_path(x, rate, key=jax.random.key(0)))(jnp.asarray(0.25)))
    assert (y == y[:, :1, :1]).all()
    np.testing.assert_allclose(np.unique(y), [0.0, 4 / 3], rtol=1e-6)
    assert abs((y[:, 0, 0] == 0).mean() - 0.25) < 0.1  # standard deviation 0.022
    assert drop_path(x, 0.25, key=None) is x
