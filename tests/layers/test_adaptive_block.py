"""Modulation by hand, the block's structure, and which routers get the time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.experts.swiglu import SwigluExperts
from moejax.layers.adaptive_block import AdaptiveBlock, init_modulation, modulated_norm, modulation
from moejax.layers.attention import Attention
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.linear.dense import Dense
from moejax.routing.time_groups import TimeGroupsRouter
from moejax.routing.top_k import TopKRouter

EXPERTS = SwigluExperts(expert_dim=6)


def test_modulation_by_hand() -> None:
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(init_modulation(jax.random.key(0), 2, 2)))
    # D = 2, two vectors: silu(0) = 0 and silu(2) = 2 / (1 + e^-2) = 1.761594; the kernel's second row is (1, 0, 10, 0).
    params = {
        "modulation": Dense(jnp.asarray([[5.0, 5.0, 5.0, 5.0], [1.0, 0.0, 10.0, 0.0]])),
        "modulation_bias": jnp.asarray([0.0, 0.5, 0.0, -1.0]),
    }
    shift, scale = modulation(params, jnp.asarray([[0.0, 2.0]]), 2)
    np.testing.assert_allclose(shift, [[[1.761594, 0.5]]], rtol=1e-6)
    np.testing.assert_allclose(scale, [[[17.61594, -1.0]]], rtol=1e-6)
    # norm((3, 5)) = (-1, 1), times 1 + scale, plus shift: (-18.61594 + 1.761594, 0 + 0.5).
    y = modulated_norm(jnp.asarray([[[3.0, 5.0]]]), shift, scale)
    np.testing.assert_allclose(y, [[[-16.854346, 0.5]]], rtol=1e-5)


def test_the_norm_is_without_parameters_and_the_block_is_two_gated_branches() -> None:
    block = AdaptiveBlock(attention=Attention(num_heads=2), mixer=FeedForward(experts=EXPERTS))
    params, state = block.init(jax.random.key(0), 8)
    assert state == {} and sorted(params) == ["attention", "feed_forward", "modulation", "modulation_bias"]
    x = jax.random.normal(jax.random.key(1), (2, 3, 8))
    condition = jax.random.normal(jax.random.key(2), (2, 8))
    np.testing.assert_array_equal(block.apply(params, state, x, condition).tokens, x)  # the zero start

    # Biases alone: shifts 0.1 and 0.4, scales 0.2 and 0.5, gates 0.3 and 0.6, whatever the condition.
    params["modulation_bias"] = jnp.repeat(jnp.arange(1.0, 7.0) / 10, 8)
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    middle = x + 0.3 * block.attention.apply(params["attention"], 1.2 * normed + 0.1)
    centred = middle - middle.mean(-1, keepdims=True)
    normed = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    expected = middle + 0.6 * block.mixer.apply(params["feed_forward"], 1.5 * normed + 0.4)
    np.testing.assert_allclose(block.apply(params, state, x, condition).tokens, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_only_routers_that_read_the_time_get_it() -> None:
    x = jax.random.normal(jax.random.key(1), (3, 2, 8))
    time = jnp.asarray([9.99, 10.0, 500.0])
    timed = AdaptiveBlock(
        attention=Attention(num_heads=2),
        mixer=MoE(router=TimeGroupsRouter(num_experts=2, boundaries=(10,)), experts=EXPERTS),
    )
    params, state = timed.init(jax.random.key(0), 8)
    plan = timed.apply(params, state, x, x[:, 0], time).plan
    np.testing.assert_array_equal(plan.expert[..., 0], [[0, 0], [1, 1], [1, 1]])  # whole steps: 9.99 is step 9
    plain = AdaptiveBlock(
        attention=Attention(num_heads=2), mixer=MoE(router=TopKRouter(num_experts=2), experts=EXPERTS)
    )
    params, state = plain.init(jax.random.key(0), 8)
    with_time, without = (plain.apply(params, state, x, x[:, 0], t).plan for t in (time, None))
    np.testing.assert_array_equal(with_time.expert, without.expert)
