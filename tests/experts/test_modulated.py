"""Modulated experts on paper; without modulation the dense layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.experts.mlp import MlpExperts
from moejax.experts.modulated import ModulatedExperts
from moejax.linear.dense import Dense
from moejax.linear.shared import Shared

PARAMS = {  # D = 1, F = 2; two experts
    "up": Shared(jnp.asarray([[1.0, -1.0]])),
    "up_bias": Shared(jnp.asarray([[0.0, 1.0]])),
    "down": Shared(jnp.asarray([[2.0], [3.0]])),
    "down_bias": Shared(jnp.asarray([[0.5]])),
}


@pytest.mark.parametrize(
    "features, gamma, beta, wanted",
    [
        # x = 2 with expert 0 and x = -1 with expert 1; the layer itself: f(z) = 2 relu(z) + 3 relu(1 - z) + 0.5.
        # Input: 3 * 2 + 1 = 7: 14 + 0.5.   -1 * -1 - 1 = 0: 3 + 0.5.
        ("input", [[3.0], [-1.0]], [[1.0], [-1.0]], [14.5, 3.5]),
        # Hidden: (2, 0) * (1, 5) + (0, 1) = (2, 1): 4 + 3 + 0.5.   (0, 2) * (7, 2) + (1, 0) = (1, 4): 2 + 12 + 0.5.
        ("hidden", [[1.0, 5.0], [7.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]], [7.5, 14.5]),
        # Output: 4.5 * 2 + 1 = 10.   6.5 * -1 + 0 = -6.5.
        ("output", [[2.0], [-1.0]], [[1.0], [0.0]], [10.0, -6.5]),
    ],
)
def test_by_hand(features, gamma, beta, wanted):
    bank = ModulatedExperts(expert_dim=2, features=features, activation="relu")
    params = PARAMS | {"gamma": jnp.asarray(gamma), "beta": jnp.asarray(beta)}
    rows = jnp.asarray([[2.0], [-1.0], [0.0]])
    out = bank.apply(params, Ragged(rows, jnp.asarray([1, 1])))
    np.testing.assert_allclose(out.tokens[:, 0], [*wanted, 0.0], rtol=1e-6)  # the last row is nobody's
    out = bank.apply(params, Buffers(rows[:2, None]))
    np.testing.assert_allclose(out.tokens[:, 0, 0], wanted, rtol=1e-6)


@pytest.mark.parametrize("features", ["input", "hidden", "output"])
def test_without_modulation_it_is_the_dense_layer(features):
    bank = ModulatedExperts(expert_dim=6, features=features, modulation_std=0.0)
    params = bank.init(jax.random.key(0), 3, 5)
    np.testing.assert_array_equal(params["gamma"], 1.0)
    dense = {name: Dense(params[name].kernel[None]) for name in ("up", "down")}
    dense |= {name: params[name].kernel for name in ("up_bias", "down_bias")}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
    want = MlpExperts(expert_dim=6).apply(dense, Buffers(x.reshape(1, 12, 5))).tokens.reshape(x.shape)
    np.testing.assert_allclose(bank.apply(params, Buffers(x)).tokens, want, rtol=1e-5, atol=1e-6)


def test_an_expert_costs_two_vectors():
    dense = MlpExperts(expert_dim=6)
    for features, width in (("input", 5), ("hidden", 6), ("output", 5)):
        bank = ModulatedExperts(expert_dim=6, features=features)
        assert bank.num_params(7, 5) == dense.num_params(1, 5) + 2 * 7 * width
        assert bank.flops_per_token(5) == dense.flops_per_token(5)


def test_bad_fields():
    with pytest.raises(SpecError, match="gated=True is not available"):
        ModulatedExperts(expert_dim=4, gated=True)
    with pytest.raises(SpecError, match="modulation_std=-1.0"):
        ModulatedExperts(expert_dim=4, modulation_std=-1.0)
