"""MoBE: the formula, the exact case, and its error against per-expert truncation at equal parameters."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.basis_fit import start_bases
from moejax.compress.expert_bank import num_params, read
from moejax.compress.mobe import MoBE
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.shared_basis import SharedBasis
from tests.compress.small_banks import D, E, F, bank, kernels, random


def size(num_bases, rank, experts=E, long=F, short=D):
    """N bases [L R], E factors [R S], E rows of N coefficients."""
    return num_bases * long * rank + experts * rank * short + experts * num_bases


def kept(params):
    """All but 'up'."""
    return num_params(params) - params["up"].kernel.size


def truncated_error(kernel, rank):
    """Of the best approximation of each expert by itself."""
    return float(np.sum(np.linalg.svd(kernel, compute_uv=False)[:, rank:] ** 2))


@pytest.mark.parametrize("extra", [0, F + E * D - 1])
def test_the_formula(extra):
    params = bank()
    made = MoBE(num_bases=1, steps=0).compress_bank(params, {}, num_params=kept(params) + size(1, 3) + extra)
    leaf = made["up"]
    assert isinstance(leaf, SharedBasis)
    assert leaf.num_params() == size(1, 3)  # of three ranks, and less than one is left over
    assert made["down"] is params["down"] and made["up_bias"] is params["up_bias"]


@pytest.mark.parametrize("width", [4, 12])
def test_as_many_linear_bases_as_experts_are_exact(width):
    """N = E, f = identity and full rank: every expert has its own basis, and A_i has the rest.

    That is more numbers than the dense kernels, so that no budget below the full one asks for it.
    """
    params = bank(dim=8, width=width)
    side = "input" if width < 8 else "output"
    leaf = start_bases(read(params), "up", side, E, min(8, width), "identity")
    assert leaf.num_params() == size(E, min(8, width), long=max(8, width), short=min(8, width))
    assert leaf.num_params() > params["up"].kernel.size
    np.testing.assert_allclose(leaf.materialise(), params["up"].kernel, atol=1e-4)


def test_one_hot_alpha_by_hand():
    # Two experts, two bases of rank one, identity: W_e = basis_e own_e.
    own = jnp.array([[[1.0, 2.0]], [[3.0, 4.0]]])
    basis = jnp.array([[[1.0], [0.0]], [[1.0], [1.0]]])
    leaf = SharedBasis(own, jnp.eye(2), basis, function="identity")
    np.testing.assert_array_equal(leaf.materialise(), [[[1, 2], [0, 0]], [[3, 4], [3, 4]]])


def correlated(seed=0, noise=0.05, experts=8, dim=12, width=24, rank=4):
    """Experts that share the space that they write into, up to noise."""
    shared = random(seed, 1, rank, width)
    kernel = random(seed + 1, experts, dim, rank) @ shared + noise * random(seed + 2, experts, dim, width)
    params = bank(num_experts=experts, dim=dim, width=width)
    return params | {"up": Dense(jnp.asarray(kernel, jnp.float32))}


@pytest.mark.parametrize("function", ["identity", "silu", "tanh"])
def test_on_correlated_experts_it_is_not_above_per_expert_truncation(function):
    params = correlated()
    rank = 2
    made = MoBE(function=function, num_bases=1, steps=100).compress_bank(
        params, {}, num_params=kept(params) + rank * 8 * (12 + 24)
    )
    own = kernels(params)["up"]
    assert made["up"].num_params() <= rank * 8 * (12 + 24)
    found = np.sum((own - kernels(made)["up"]) ** 2)
    assert found < 0.1 * truncated_error(own, rank)


def test_on_independent_experts_truncation_is_better():
    """Nothing is shared, so that sharing costs: the paper's gain is that of correlated experts."""
    params = bank(num_experts=8, dim=12, width=24, seed=4)
    made = MoBE(num_bases=2, steps=100).compress_bank(params, {}, num_params=kept(params) + 4 * 8 * (12 + 24))
    own = kernels(params)["up"]
    found = np.sum((own - kernels(made)["up"]) ** 2)
    assert truncated_error(own, 4) < found < np.sum(own**2)


def test_steps_lower_the_error():
    params = bank(num_experts=6, dim=8, width=16)
    budget = kept(params) + size(2, 4, experts=6, long=16, short=8)
    errors = []
    for steps in (0, 30, 300):
        made = MoBE(num_bases=2, steps=steps, learning_rate=0.03).compress_bank(params, {}, num_params=budget)
        errors.append(np.sum((kernels(params)["up"] - kernels(made)["up"]) ** 2))
    assert errors[0] > 1.01 * errors[1] and errors[1] > errors[2]


def test_the_own_factors_are_the_least_squares_of_the_bases():
    params = bank()
    made = MoBE(num_bases=2, steps=20).compress_bank(params, {}, num_params=kept(params) + size(2, 3))
    leaf, own = made["up"], kernels(params)["up"]
    assert leaf.side == "output"  # F > D: the bases are on the longer side
    alpha = np.exp(np.asarray(leaf.alpha, np.float64))
    alpha /= alpha.sum(1, keepdims=True)  # convex
    mixture = np.einsum("en,nrf->erf", alpha, np.asarray(leaf.basis, np.float64))
    mixture = mixture / (1 + np.exp(-mixture))
    for e in range(E):
        wanted = np.linalg.lstsq(mixture[e].T, own[e].T, rcond=None)[0].T @ mixture[e]
        np.testing.assert_allclose(leaf.materialise()[e], wanted, rtol=1e-3, atol=1e-3)


def test_scale_does_not_matter():
    params = bank()
    large = params | {"up": Dense(params["up"].kernel * 1e4)}
    method = MoBE(num_bases=1, steps=20)
    one, other = (method.compress_bank(p, {}, num_params=kept(p) + size(1, 3)) for p in (params, large))
    np.testing.assert_allclose(1e4 * one["up"].materialise(), other["up"].materialise(), rtol=1e-2, atol=30.0)


def test_down_is_taken_where_the_budget_is_out_of_reach_without():
    params = bank("swiglu")
    budget = 3 * size(1, 2)
    with pytest.raises(SpecError, match="what stays dense"):
        MoBE(steps=0, include_down=False).compress_bank(params, {}, num_params=budget)
    made = MoBE(steps=0).compress_bank(params, {}, num_params=budget)
    assert num_params(made) == budget
    assert made["down"].side == "input" and made["up"].side == "output"


def test_bad_fields():
    with pytest.raises(SpecError, match="num_bases=0"):
        MoBE(num_bases=0)
    with pytest.raises(SpecError, match="steps=-1"):
        MoBE(steps=-1)
