"""Rotary positions against complex numbers; only distances matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.layers.rotary import check_rotary, rotate


def test_pairs_are_turned_as_complex_numbers():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(2, 3, 4, 6)).astype(np.float32)
    positions = np.array([[0, 1, 2, 3], [5, 0, 9, 100]])
    frequency = 50.0 ** -np.array([0, 1 / 3, 2 / 3])
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * positions[:, None, :, None] * frequency)
    y = rotate(jnp.asarray(x), jnp.asarray(positions, jnp.int32), 50.0)
    np.testing.assert_allclose(y, np.concatenate([turned.real, turned.imag], -1), rtol=1e-4, atol=1e-5)


def test_position_one_of_a_pair_by_hand():
    # One pair, frequency 1: (1, 0) at position 1 becomes (cos 1, sin 1) = (0.5403023, 0.8414710).
    y = rotate(jnp.array([[[[1.0, 0.0]]]]), jnp.array([[1]], jnp.int32), 10_000.0)
    np.testing.assert_allclose(y[0, 0, 0], [0.5403023, 0.8414710], rtol=1e-6)


def test_products_depend_on_the_distance_alone():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def product(at_query, at_key):
        positions = [jnp.array([[at]], jnp.int32) for at in (at_query, at_key)]
        return (rotate(query, positions[0], 100.0) * rotate(key, positions[1], 100.0)).sum()

    np.testing.assert_allclose(product(7, 3), product(11, 7), rtol=1e-4)
    assert abs(float(product(7, 3) - product(7, 4))) > 1e-3


def test_the_dtype_is_kept_and_bad_numbers_are_refused():
    x = jnp.ones((1, 1, 2, 4), jnp.bfloat16)
    assert rotate(x, jnp.arange(2, dtype=jnp.int32)[None], 100.0).dtype == jnp.bfloat16
    with pytest.raises(SpecError, match="head_dim=3 must be even"):
        check_rotary(3, 100.0)
    with pytest.raises(SpecError, match=r"rope_base=1.0 must be above 1"):
        check_rotary(4, 1.0)
