"""Channels pruned: by hand, as the masked bank, and the rule of the least important ones as a switch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.lorap_channels import LorapChannels, choose
from moejax.compress.statistics import from_rows
from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers
from moejax.experts.mlp import MlpExperts
from moejax.experts.swiglu import SwigluExperts

E, D, F = 2, 3, 10


def test_the_least_important_are_kept_as_a_switch():
    importance = np.array([5.0, 1.0, 4.0, 0.0, 3.0])
    assert choose(importance, 3, 0).tolist() == [0, 2, 4]
    assert choose(importance, 3, 1).tolist() == [0, 2, 3]
    assert choose(importance, 5, 1).tolist() == [0, 1, 2, 3, 4]


def bank_of(experts):
    params = experts.init(jax.random.key(0), E, D)
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(draw.normal(size=a.shape), jnp.float32), params)


def rows_of():
    draw = np.random.default_rng(1)
    return {name: from_rows(draw.normal(size=(E, 20, width))) for name, width in (("up", D), ("gate", D), ("down", F))}


@pytest.mark.parametrize("experts", [MlpExperts(expert_dim=F), SwigluExperts(expert_dim=F)])
def test_is_the_bank_with_other_channels_masked(experts):
    params, statistics = bank_of(experts), rows_of()
    kernels = 3 if "gate" in params else 2
    each = E * (kernels * D + (1 if "up_bias" in params else 0))
    fixed = E * D if "down_bias" in params else 0
    small = LorapChannels(least_important=0.1).compress_bank(params, statistics, num_params=fixed + 4 * each + 3)
    assert small["up"].kernel.shape == (E, D, 4)
    importance = np.zeros((E, F))
    for name in ("up", "gate", "down"):
        if name in params:
            scaled = (
                np.asarray(params[name].kernel, np.float64) ** 2
                * np.einsum("edd->ed", statistics[name].second_moment)[:, :, None]
            )
            importance += scaled.sum(2 if name == "down" else 1)
    order = np.argsort(-importance, axis=1)
    kept = np.concatenate([order[:, :3], order[:, -1:]], 1)
    mask = np.zeros((E, 1, F), np.float32)
    for e in range(E):
        mask[e, 0, kept[e]] = 1
    masked = params | {"down": params["down"].replace(kernel=params["down"].kernel * mask.swapaxes(1, 2))}
    x = Buffers(jnp.asarray(np.random.default_rng(2).normal(size=(E, 5, D)), jnp.float32))
    small_spec = type(experts)(expert_dim=4)
    np.testing.assert_allclose(small_spec.apply(small, x).tokens, experts.apply(masked, x).tokens, rtol=1e-4, atol=1e-5)


def test_nothing_to_prune_and_too_little_left():
    params = bank_of(SwigluExperts(expert_dim=F))
    whole = LorapChannels().compress_bank(params, rows_of(), num_params=10_000)
    assert whole["up"] is params["up"]
    with pytest.raises(SpecError, match="num_params=17 is not reachable; the smallest is 18"):
        LorapChannels().compress_bank(params, rows_of(), num_params=17)
    with pytest.raises(SpecError, match="least_important=1.0"):
        LorapChannels(least_important=1.0)
