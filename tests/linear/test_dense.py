"""The dense leaf's counts; its products are the reference of the others."""

import jax.numpy as jnp

from moejax.linear.dense import Dense


def test_counts():
    assert Dense(jnp.zeros((3, 5))).num_params() == 15
    assert Dense(jnp.zeros((4, 3, 5))).num_params() == 60
    assert Dense(jnp.zeros((4, 3, 5))).flops_per_row() == 30
