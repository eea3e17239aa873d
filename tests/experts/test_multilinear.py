"""Multilinear experts against the whole tensor, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers
from moejax.experts.multilinear import MultilinearExperts
from moejax.linear.cp import Cp
from moejax.linear.tensor_ring import TensorRing


def test_cp_by_hand():
    # Rank 2, D = 2, F = 1. up[e] = scale[e, 0] (1, 0) + scale[e, 1] (0, 1): expert 0 (1, 2), expert 1 (-1, 0).
    # down (rank 1, scales 3 and 1) writes (1, -1). x = (1, 1): relu(3) * 3 = 9; relu(-1) = 0.
    up = Cp(jnp.eye(2), jnp.asarray([[1.0, 2.0], [-1.0, 0.0]]), jnp.ones((2, 1)))
    down = Cp(jnp.ones((1, 1)), jnp.asarray([[3.0], [1.0]]), jnp.asarray([[1.0, -1.0]]))
    params = {"up": up, "down": down, "up_bias": jnp.zeros((2, 1)), "down_bias": jnp.zeros((2, 2))}
    out = MultilinearExperts(expert_dim=1, rank=2, activation="relu").apply(params, Buffers(jnp.ones((2, 1, 2))))
    np.testing.assert_allclose(out.tokens[:, 0], [[9.0, -9.0], [0.0, 0.0]])


def test_ring_by_hand():
    # All bonds 1 but between experts and inputs, which is 2: kernel[e, d, 0] = sum_i core[e, i] input[d, i].
    # Expert 0 takes the first column (1, 2), expert 1 the sum of both (1 + 3, 2 - 1) = (4, 1). x = (1, 1): 3 and 5.
    up = TensorRing(
        jnp.asarray([[[1.0], [0.0]], [[1.0], [1.0]]]), jnp.asarray([[[1.0, 3.0]], [[2.0, -1.0]]]), jnp.ones((1, 1, 1))
    )
    down = TensorRing(jnp.ones((2, 1, 1)), jnp.ones((1, 1, 1)), jnp.asarray([[[1.0, 0.0]]]))
    params = {"up": up, "down": down, "up_bias": jnp.zeros((2, 1)), "down_bias": jnp.zeros((2, 2))}
    bank = MultilinearExperts(expert_dim=1, rank=(2, 1, 1), form="tensor_ring", activation="relu")
    np.testing.assert_allclose(bank.apply(params, Buffers(jnp.ones((2, 1, 2)))).tokens[:, 0, 0], [3.0, 5.0])


@pytest.mark.parametrize("form", ["cp", "tensor_ring"])
def test_parameters_are_linear_in_the_experts(form):
    # An expert more costs R (4), or R R2 (4 * 4), per kernel, and its biases 6 + 5.
    bank = MultilinearExperts(expert_dim=6, rank=4, form=form)
    assert {bank.num_params(n + 1, 5) - bank.num_params(n, 5) for n in range(1, 9)} == {
        2 * (4 if form == "cp" else 16) + 11
    }


@pytest.mark.parametrize("form, rank", [("cp", 40), ("tensor_ring", 6), ("tensor_ring", (1, 5, 8))])
def test_kernels_have_the_variance_of_a_dense_draw(form, rank):
    bank = MultilinearExperts(expert_dim=80, rank=rank, form=form)
    draw = jax.jit(lambda key: bank.materialise(bank.init(key, 16, 60)))
    drawn = [draw(jax.random.key(seed)) for seed in range(6)]
    for name in ("up", "down"):
        np.testing.assert_allclose(np.mean([np.var(weights[name]) for weights in drawn]), 2 / 140, rtol=0.15)


def test_bad_ranks():
    with pytest.raises(SpecError, match="'cp' has one rank"):
        MultilinearExperts(expert_dim=4, rank=(1, 2, 3))
    with pytest.raises(SpecError, match="must be at least 1"):
        MultilinearExperts(expert_dim=4, rank=(1, 0, 3), form="tensor_ring")
