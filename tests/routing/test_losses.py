"""Losses by hand on 4 tokens x 3 experts, and properties that hold for any input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.routing.losses import (
    balance_loss,
    device_balance_loss,
    importance_loss,
    load_loss,
    load_probability,
    squared_cv,
    z_loss,
)

# One group of four tokens and three experts.
PROBS = jnp.asarray([[[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1]]], jnp.float32)


def test_importance_by_hand():
    # Sums: 2.0, 1.3, 0.7; mean 4/3. Deviations 2/3, -1/30, -19/30; squares 0.44444 + 0.00111 + 0.40111 = 0.84667;
    # variance 0.84667/3 = 0.28222; over (4/3)^2 = 1.77778: 0.15875.
    np.testing.assert_allclose(importance_loss(PROBS), 0.15875, rtol=1e-5)


def test_importance_is_per_group_then_mean():
    # The second group is balanced (loss 0), so the mean over both is half the first; pooled they would give another value.
    both = jnp.concatenate([PROBS, jnp.full((1, 4, 3), 1 / 3)])
    np.testing.assert_allclose(importance_loss(both), 0.15875 / 2, rtol=1e-5)


def test_balance_by_hand_top1():
    # Choices 0, 0, 0, 1: f = (3/4, 1/4, 0). P = (0.5, 0.325, 0.175).
    # 3 * (0.75 * 0.5 + 0.25 * 0.325 + 0) = 3 * 0.45625 = 1.36875.
    expert = jnp.argmax(PROBS, axis=-1)[..., None]
    np.testing.assert_allclose(balance_loss(PROBS, expert), 1.36875, rtol=1e-5)


def test_balance_by_hand_top2():
    # Choices {0,1}, {0,1}, {0,2}, {1,0}: of 8 choices 4 go to 0, 3 to 1, 1 to 2: f = (0.5, 0.375, 0.125).
    # 3 * (0.5 * 0.5 + 0.375 * 0.325 + 0.125 * 0.175) = 3 * 0.39375 = 1.18125.
    expert = jax.lax.top_k(PROBS, 2)[1]
    np.testing.assert_allclose(balance_loss(PROBS, expert), 1.18125, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_balance_is_one_at_uniform_routing(k):
    # Six tokens in turn: every expert gets 6 k / 3 of 6 k choices.
    expert = (jnp.arange(6 * k).reshape(1, 6, k) % 3).astype(jnp.int32)
    np.testing.assert_allclose(balance_loss(jnp.full((1, 6, 3), 1 / 3), expert), 1.0, rtol=1e-6)


def test_balance_gradient_flows_through_probabilities_only():
    # d/dp[s, e] of 3 * sum_e f_e mean_s p[s, e] is 3 f_e / 4 = (0.5625, 0.1875, 0), also where the choice is a function of p.
    gradient = jax.grad(lambda p: balance_loss(p, jnp.argmax(p, axis=-1)[..., None]))(PROBS)
    np.testing.assert_allclose(gradient, np.broadcast_to([0.5625, 0.1875, 0.0], (1, 4, 3)), rtol=1e-5)


def test_device_balance_by_hand():
    # Four experts on two devices. Choices 0, 1, 2, 2: f = (1/4, 1/4, 1/2, 0), by device (1/2, 1/2): balanced.
    # P = (0.4, 0.3, 0.2, 0.1), by device (0.7, 0.3): 2 * (0.5 * 0.7 + 0.5 * 0.3) = 1.
    probs = jnp.broadcast_to(jnp.asarray([0.4, 0.3, 0.2, 0.1], jnp.float32), (1, 4, 4))
    expert = jnp.asarray([[[0], [1], [2], [2]]])
    np.testing.assert_allclose(device_balance_loss(probs, expert, 2), 1.0, rtol=1e-6)
    # Choices 0, 1, 0, 2: by device (3/4, 1/4): 2 * (0.75 * 0.7 + 0.25 * 0.3) = 1.2. A device per expert is the other loss.
    expert = jnp.asarray([[[0], [1], [0], [2]]])
    np.testing.assert_allclose(device_balance_loss(probs, expert, 2), 1.2, rtol=1e-6)
    np.testing.assert_allclose(device_balance_loss(probs, expert, 4), balance_loss(probs, expert), rtol=1e-6)
    np.testing.assert_allclose(device_balance_loss(probs, expert, 1), 1.0, rtol=1e-6)


def test_device_balance_is_that_of_the_paper():
    """f'_i the mean of f_j = N / (K T) sum 1 over a device's experts, P'_i the sum of P_j; in NumPy, group by group."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(6), size=(2, 5))
    expert = np.stack([[rng.permutation(6)[:2] for _ in range(5)] for _ in range(2)])
    want = []
    for g in range(2):
        f = np.asarray([6 / (2 * 5) * np.sum(expert[g] == e) for e in range(6)])
        p = probs[g].mean(0)
        want.append(sum(f[i : i + 2].mean() * p[i : i + 2].sum() for i in (0, 2, 4)))
    found = device_balance_loss(jnp.asarray(probs, jnp.float32), jnp.asarray(expert), 3)
    np.testing.assert_allclose(found, np.mean(want), rtol=1e-5)


def test_z_loss_by_hand():
    # Rows of logs: logsumexp(log 1, log 2, log 1) = log 4 = 1.386294; logsumexp(0, 0, 0) = log 3 = 1.098612.
    # Mean of squares (1.921812 + 1.206949) / 2 = 1.564381.
    logits = jnp.log(jnp.asarray([[[1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]]))
    np.testing.assert_allclose(z_loss(logits), 1.564381, rtol=1e-5)


CLEAN = jnp.asarray([[[1.0, 0.0, -1.0]]])
NOISY = jnp.asarray([[[0.8, 0.5, -1.2]]])


def test_load_probability_by_hand():
    # K = 1, std 0.5: threshold 0.8. z = (1 - 0.8, 0 - 0.8, -1 - 0.8) / 0.5 = (0.4, -1.6, -3.6).
    # Phi: 0.655422, 0.054799, 0.000159.
    p = load_probability(CLEAN, NOISY, 0.5, 1)
    np.testing.assert_allclose(p[0, 0], [0.655422, 0.054799, 0.000159], atol=1e-6)
    # K = 2: threshold 0.5. z = (1.0, -1.0, -3.0): 0.841345, 0.158655, 0.001350.
    p = load_probability(CLEAN, NOISY, 0.5, 2)
    np.testing.assert_allclose(p[0, 0], [0.841345, 0.158655, 0.001350], atol=1e-6)


def test_load_probability_excluding_self_by_hand():
    # K = 1: expert 0 must pass the best other, 0.5: z = 1.0; experts 1 and 2 must pass 0.8: z = -1.6, -3.6.
    p = load_probability(CLEAN, NOISY, 0.5, 1, exclude_self=True)
    np.testing.assert_allclose(p[0, 0], [0.841345, 0.054799, 0.000159], atol=1e-6)
    # K = 2: experts 0 and 1 must pass the third, -1.2: z = 4.4, 2.4; expert 2 must pass 0.5: z = -3.
    p = load_probability(CLEAN, NOISY, 0.5, 2, exclude_self=True)
    np.testing.assert_allclose(p[0, 0], [0.999995, 0.991802, 0.001350], atol=1e-6)
    np.testing.assert_array_equal(load_probability(CLEAN, NOISY, 0.5, 3, exclude_self=True), np.ones((1, 1, 3)))


@pytest.mark.parametrize("k", [1, 2])
def test_load_probability_excluding_self_is_the_frequency_of_selection(k):
    # Redraw one expert's noise, keep the others', and count how often it is in the top k.
    rng = np.random.default_rng(0)
    clean, std = rng.normal(size=(2, 3)), np.asarray([0.7, 0.4, 1.1])
    noisy = clean + std * rng.normal(size=(2, 3))
    p = load_probability(
        jnp.asarray(clean[None], jnp.float32),
        jnp.asarray(noisy[None], jnp.float32),
        jnp.asarray(np.broadcast_to(std, (1, 2, 3)), jnp.float32),
        k,
        exclude_self=True,
    )
    for token in range(2):
        for expert in range(3):
            drawn = np.tile(noisy[token], (40_000, 1))
            drawn[:, expert] = clean[token, expert] + std[expert] * rng.normal(size=40_000)
            rank = (drawn > drawn[:, [expert]]).sum(axis=1)
            assert abs((rank < k).mean() - float(p[0, token, expert])) < 0.01  # 4 sigma: 4 * 0.5 / 200


@pytest.mark.parametrize("k", [1, 2])
def test_load_probability_is_the_frequency_of_passing_the_threshold(k):
    rng = np.random.default_rng(1)
    clean = rng.normal(size=3)
    noisy = clean + 0.5 * rng.normal(size=3)
    p = load_probability(
        jnp.asarray(clean[None, None], jnp.float32), jnp.asarray(noisy[None, None], jnp.float32), 0.5, k
    )
    redrawn = clean + 0.5 * rng.normal(size=(40_000, 3))
    np.testing.assert_allclose((redrawn >= np.sort(noisy)[-k]).mean(axis=0), p[0, 0], atol=0.01)


def test_load_loss_by_hand():
    # Expected tokens per expert (mean over two tokens): (0.6, 0.3, 0.3); mean 0.4, variance (0.04 + 0.01 + 0.01)/3 = 0.02;
    # over 0.16: 0.125.
    p = jnp.asarray([[[0.8, 0.2, 0.4], [0.4, 0.4, 0.2]]])
    np.testing.assert_allclose(load_loss(p), 0.125, rtol=1e-5)


def test_squared_cv_has_a_finite_gradient_at_balance():
    value, gradient = jax.value_and_grad(squared_cv)(jnp.ones((1, 3)))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((1, 3)))
