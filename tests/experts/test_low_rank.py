"""Low-rank experts on paper, and where they stop being low-rank."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Ragged
from moejax.experts.low_rank import LowRankExperts
from moejax.experts.mlp import MlpExperts
from moejax.experts.swiglu import SwigluExperts
from moejax.linear.low_rank import LowRank


def test_by_hand_with_a_rank_per_expert():
    # Expert 0 has rank 2: up = [1 0; 0 1] [1 1; 0 -1] = [1 1; 0 -1], down = [1; 1] [2 0] + [0; 1] [0 1] = [2 0; 2 1].
    #   x = (2, 1): relu(2, 2 - 1) = (2, 1); times down: (4 + 2, 1) = (6, 1).
    # Expert 1 has rank 1: up = [1; 2] [1 -1] = [1 -1; 2 -2], down = [1; 0] [1 3] = [1 3; 0 0]; the rest of its factors is 9s.
    #   x = (1, -1): (1 - 2, -1 + 2) = (-1, 1): relu (0, 1): (0, 0).   x = (1, 1): relu(3, -3) = (3, 0): (3, 9).
    up = LowRank(
        jnp.asarray([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 9.0], [2.0, 9.0]]]),
        jnp.asarray([[[1.0, 1.0], [0.0, -1.0]], [[1.0, -1.0], [9.0, 9.0]]]),
        (2, 1),
    )
    down = LowRank(
        jnp.asarray([[[1.0, 0.0], [1.0, 1.0]], [[1.0, 9.0], [0.0, 9.0]]]),
        jnp.asarray([[[2.0, 0.0], [0.0, 1.0]], [[1.0, 3.0], [9.0, 9.0]]]),
        (2, 1),
    )
    params = {"up": up, "down": down, "up_bias": jnp.zeros((2, 2)), "down_bias": jnp.zeros((2, 2))}
    bank = LowRankExperts(expert_dim=2, rank=(2, 1), activation="relu")
    out = bank.apply(params, Ragged(jnp.asarray([[2.0, 1.0], [1.0, -1.0], [1.0, 1.0]]), jnp.asarray([1, 2])))
    np.testing.assert_allclose(out.tokens, [[6.0, 1.0], [0.0, 0.0], [3.0, 9.0]], rtol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
def test_full_rank_is_the_dense_bank(gated):
    dense = SwigluExperts(expert_dim=6) if gated else MlpExperts(expert_dim=6)
    params = dense.init(jax.random.key(0), 3, 5)

    def factored(leaf):
        u, spectrum, v = jnp.linalg.svd(leaf.kernel, full_matrices=False)
        return LowRank(u * spectrum[:, None, :], v)

    whole = {name: factored(leaf) if hasattr(leaf, "kernel") else leaf for name, leaf in params.items()}
    bank = LowRankExperts(expert_dim=6, rank=5, gated=gated)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(lambda: bank.init(jax.random.key(0), 3, 5)))
    assert jax.tree.map(jnp.shape, whole) == shapes
    x = Buffers(jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32))
    np.testing.assert_allclose(bank.apply(whole, x).tokens, dense.apply(params, x).tokens, rtol=1e-4, atol=1e-5)


def test_ranks_count_as_they_are():
    # Kernels [5 6] and [6 5]: 11 numbers per rank each; ranks 3, 1 and 2 in turn over six experts make 12 per kernel.
    # Biases: 6 * (6 + 5). FLOPs: 2 * 11 * mean rank 2, two kernels.
    bank = LowRankExperts(expert_dim=6, rank=(3, 1, 2))
    assert bank.num_params(6, 5) == 2 * 12 * 11 + 66
    assert bank.flops_per_token(5) == 2 * 2 * 11 * 2
    params = bank.init(jax.random.key(0), 6, 5)
    assert params["up"].u.shape == (6, 5, 3)
    assert params["up"].ranks == (3, 1, 2, 3, 1, 2)
    assert not np.any(params["down"].v[1, 1:])  # stored, but no number of the expert
    # A rank above min(D, F) = 5 is the full one.
    assert LowRankExperts(expert_dim=6, rank=50).num_params(2, 5) == 2 * 2 * 5 * 11 + 22


@pytest.mark.parametrize("gated", [False, True])
def test_kernels_have_the_variance_of_a_dense_draw(gated):
    bank = LowRankExperts(expert_dim=80, rank=(40, 10), gated=gated)
    weights = jax.jit(lambda: bank.materialise(bank.init(jax.random.key(0), 16, 60)))()
    for name, fan_in in (("up", 60), ("down", 80)):
        wanted = 1 / fan_in if gated else 2 / (60 + 80)
        np.testing.assert_allclose(np.var(weights[name], axis=(1, 2)).reshape(8, 2).mean(0), wanted, rtol=0.1)


def test_bad_ranks():
    with pytest.raises(SpecError, match="rank=0 must be at least 1"):
        LowRankExperts(expert_dim=4, rank=0)
    with pytest.raises(SpecError, match=r"rank=\(1, 2\) names 2 experts and the bank has 3"):
        LowRankExperts(expert_dim=4, rank=(1, 2)).init(jax.random.key(0), 3, 5)
    with pytest.raises(SpecError, match="gated form has no dropout"):
        LowRankExperts(expert_dim=4, rank=1, gated=True, dropout_rate=0.1)
