"""Noisy top-k by hand: 4 tokens x 3 experts; tokens are one-hot, so the kernels' rows are the tokens' logits."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import norm

from moejax.core.rng import named
from moejax.routing.noisy_top_k import NoisyTopKRouter

GATES = np.asarray([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1]], np.float32)
X = jnp.eye(4)[None]
# softplus(log(e - 1)) = log(1 + e - 1) = 1: unit noise for expert 0; log(e^2 - 1): 2; log(e^0.5 - 1): 0.5.
STD = np.asarray([1.0, 2.0, 0.5], np.float32)
PARAMS = {"kernel": jnp.log(GATES), "noise_kernel": jnp.broadcast_to(jnp.log(jnp.expm1(STD))[None], (4, 3))}


def test_gates_without_noise_by_hand():
    # Softmax over the two largest: 0.7 / 0.9, 0.6 / 0.9, 0.5 / 0.9, 0.7 / 0.9; zero elsewhere by construction.
    routed = jax.jit(NoisyTopKRouter(num_experts=3).route)(PARAMS, {}, X)
    np.testing.assert_array_equal(routed.plan.expert[0], [[0, 1], [0, 1], [0, 2], [1, 0]])
    np.testing.assert_allclose(routed.plan.weight[0], np.asarray([[7, 2], [6, 3], [5, 4], [7, 2]]) / 9, rtol=1e-5)
    # Sums of gates (x 9): 7 + 6 + 5 + 2 = 20; 2 + 3 + 7 = 12; 4: mean 12, variance (64 + 0 + 64) / 3; CV^2 = 42.667 / 144
    # = 0.296296, times the weight 0.1. No load loss without noise.
    assert set(routed.losses) == {"importance"}
    np.testing.assert_allclose(routed.losses["importance"], 0.0296296, rtol=1e-4)


def test_noise_and_load_follow_the_definition():
    routed = jax.jit(NoisyTopKRouter(num_experts=3, load_loss_weight=1.0).route)(PARAMS, {}, X, key=jax.random.key(0))
    clean = np.log(GATES)
    noisy = clean + STD * np.asarray(jax.random.normal(named(jax.random.key(0), "noise"), (1, 4, 3))[0])
    order = np.argsort(-noisy, axis=1)
    np.testing.assert_array_equal(routed.plan.expert[0], order[:, :2])
    probability = np.zeros((4, 3))
    for s, e in np.ndindex(4, 3):
        others = np.sort(np.delete(noisy[s], e))  # the second largest of the two others is the smaller
        probability[s, e] = norm.cdf((clean[s, e] - others[0]) / STD[e])
    load = probability.sum(axis=0)
    np.testing.assert_allclose(routed.losses["load"], load.var() / load.mean() ** 2, rtol=1e-3)


def test_starts_at_zero_and_is_balanced_by_noise():
    router = NoisyTopKRouter(num_experts=4)
    params, state = router.init(jax.random.key(0), 8)
    assert all((leaf == 0).all() for leaf in params.values()) and state == {}
    load = jax.jit(router.route)(params, state, jnp.ones((1, 512, 8)), key=jax.random.key(1)).metrics["load"]
    np.testing.assert_allclose(load, 0.25, atol=0.05)
