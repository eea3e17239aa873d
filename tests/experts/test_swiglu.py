"""Two gated experts of width one, on paper."""

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.layouts import Buffers
from moejax.experts.swiglu import SwigluExperts
from moejax.linear.dense import Dense


def test_the_gate_multiplies_the_hidden_layer():
    params = {
        "gate": Dense(jnp.asarray([[[1.0]], [[-1.0]]])),
        "up": Dense(jnp.asarray([[[2.0]], [[1.0]]])),
        "down": Dense(jnp.asarray([[[3.0]], [[0.5]]])),
    }
    # silu(x) = x / (1 + exp(-x)): silu(1) = 0.731059, silu(-2) = -0.238406.
    # Expert 0, x = 1: silu(1) * 2 * 3 = 4.386351.  Expert 1, x = 2: silu(-2) * 2 * 0.5 = -0.238406.
    out = SwigluExperts(expert_dim=1).apply(params, Buffers(jnp.asarray([[[1.0]], [[2.0]]])))
    np.testing.assert_allclose(out.tokens[:, 0, 0], [4.386351, -0.238406], rtol=1e-5)


def test_xavier_kernels_lie_within_their_bound():
    bank = SwigluExperts(expert_dim=40, kernel_init="xavier_uniform").init(jax.random.key(0), 3, 20)
    for leaf in bank.values():
        assert 0.99 < np.abs(leaf.kernel).max() / np.sqrt(6 / 60) <= 1.0
