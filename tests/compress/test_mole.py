"""MoLE: the shared factor against alternating least squares, the weighted norm, counts."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.expert_bank import num_params
from moejax.compress.mole import MoLE
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.shared_factor import SharedFactor
from tests.compress.small_banks import D, E, F, bank, calibration, kernels, random

UNIT = D + E * F  # parameters of one rank of one kernel


def up_only(budget_ranks, kind="mlp"):
    """A budget of so many ranks of 'up' (and 'gate'), 'down' dense."""
    params = bank(kind)
    names = 1 if kind == "mlp" else 2
    biases = E * (D + F) if kind == "mlp" else 0
    return params, biases + params["down"].kernel.size + names * budget_ranks * UNIT


def alternating(stacked, rank, seed, steps=300):
    """min ||W - B A||^2 from a random start: two least-squares problems in turn."""
    b = np.random.default_rng(seed).normal(size=(stacked.shape[0], rank))
    for _ in range(steps):
        a = np.linalg.lstsq(b, stacked, rcond=None)[0]
        b = np.linalg.lstsq(a.T, stacked.T, rcond=None)[0].T
    return np.sum((stacked - b @ a) ** 2)


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
@pytest.mark.parametrize("rank", [1, 3])
def test_the_closed_form_is_the_minimum(kind, rank):
    params, budget = up_only(rank, kind)
    made = MoLE(share_down=False).compress_bank(params, {}, num_params=budget)
    names = [name for name in ("up", "gate") if name in params]
    assert all(isinstance(made[name], SharedFactor) and made[name].u.shape == (D, rank) for name in names)
    assert made["down"] is params["down"]
    own, found = kernels(params), kernels(made)
    error = sum(np.sum((own[name] - found[name]) ** 2) for name in names)
    stacked = np.concatenate([kernel for name in names for kernel in own[name]], axis=1)
    tail = np.sum(np.linalg.svd(stacked, compute_uv=False)[rank:] ** 2)
    np.testing.assert_allclose(error, tail, rtol=1e-5)
    turns = [alternating(stacked, rank, seed) for seed in range(4)]
    assert min(turns) >= tail * (1 - 1e-9)
    np.testing.assert_allclose(min(turns), tail, rtol=1e-4)


def test_up_and_gate_read_one_latent_space():
    params, budget = up_only(2, "swiglu")
    made = MoLE(share_down=False).compress_bank(params, {}, num_params=budget)
    np.testing.assert_array_equal(made["up"].u, made["gate"].u)


def test_the_way_out_is_shared_too():
    params = bank("mlp")
    made = MoLE().compress_bank(params, {}, num_params=E * (D + F) + 5 * UNIT)
    assert made["down"].u.ndim == 3 and made["down"].v.ndim == 2
    assert made["up"].u.shape[1] + made["down"].v.shape[0] == 5
    own, rank = kernels(params)["down"], made["down"].v.shape[0]
    tail = np.sum(np.linalg.svd(np.concatenate(list(own)), compute_uv=False)[rank:] ** 2)
    np.testing.assert_allclose(np.sum((own - kernels(made)["down"]) ** 2), tail, rtol=1e-5)


@pytest.mark.parametrize("extra", [0, 1, UNIT - 1])
def test_counts(extra):
    params = bank("mlp")
    budget = E * (D + F) + 4 * UNIT + extra
    made = MoLE().compress_bank(params, {}, num_params=budget)
    assert num_params(made) == E * (D + F) + 4 * UNIT  # the formula; less than one rank is left over


def test_a_latent_space_as_wide_as_the_model_is_exact():
    """A way out of rank one leaves parameters enough for a way in of rank D, which costs more than the dense kernels."""
    params = bank("mlp", num_experts=2, dim=4, width=40)
    thin = jnp.asarray(random(1, 2, 40, 1) * random(2, 1, 4), jnp.float32)
    params = params | {"down": Dense(thin)}
    made = MoLE().compress_bank(params, {}, num_params=2 * (4 + 40) + 5 * (4 + 2 * 40))
    assert (made["up"].u.shape, made["down"].v.shape) == ((4, 4), (1, 4))
    for name in ("up", "down"):
        np.testing.assert_allclose(made[name].materialise(), params[name].kernel, atol=1e-5)


def test_with_one_expert_it_is_the_truncated_decomposition():
    params = bank("mlp", num_experts=1)
    made = MoLE(share_down=False).compress_bank(params, {}, num_params=D + F + D * F + 2 * (D + F))
    values = np.linalg.svd(kernels(params)["up"][0], compute_uv=False)
    error = np.sum((kernels(params)["up"] - kernels(made)["up"]) ** 2)
    np.testing.assert_allclose(error, np.sum(values[2:] ** 2), rtol=1e-5)


def moments(seed, num_rows, dim):
    rows = random(seed, E, num_rows, dim) * np.array([3.0, 1.0, 0.3] * (dim // 3) + [1.0] * (dim % 3))
    return np.einsum("enf,eng->efg", rows, rows)


def weighted_error(own, found, moment):
    difference = own - found
    return np.einsum("edf,edc,ecf->", difference, moment, difference)


def test_the_second_phase_never_loses_and_the_first_is_the_best_of_one_norm():
    params, budget = up_only(2)
    own = kernels(params)["up"]
    moment = moments(3, 20, D)
    statistics = calibration(params)
    statistics["up"] = statistics["up"].replace(second_moment=jnp.asarray(moment, jnp.float32))
    made = MoLE(share_down=False, weighted=True).compress_bank(params, statistics, num_params=budget)
    plain = MoLE(share_down=False, weighted=False).compress_bank(params, statistics, num_params=budget)
    found = kernels(made)["up"]
    error = weighted_error(own, found, moment)
    assert error < weighted_error(own, kernels(plain)["up"], moment)
    # What the first phase alone would give: the closed form in the norm of all rows together, by Cholesky.
    root = np.linalg.cholesky(moment.sum(0)).T
    outer = np.linalg.svd(root @ np.concatenate(list(own), 1))[0][:, :2]
    first = np.linalg.inv(root) @ outer @ outer.T @ root
    assert error <= weighted_error(own, np.einsum("dc,ecf->edf", first, own), moment) * (1 + 1e-5)
    # And the own factors are the best for that basis: no gradient is left.
    u = np.asarray(made["up"].u, np.float64)
    slope = np.einsum("dr,edc,ecf->erf", u, moment, own - found)
    np.testing.assert_allclose(slope, np.zeros_like(slope), atol=1e-3 * np.abs(moment).max())


def test_equal_moments_leave_nothing_to_the_second_phase():
    params, budget = up_only(2)
    own = kernels(params)["up"]
    moment = np.broadcast_to(moments(4, 20, D)[:1], (E, D, D))
    statistics = calibration(params)
    statistics["up"] = statistics["up"].replace(second_moment=jnp.asarray(moment, jnp.float32))
    made = MoLE(share_down=False).compress_bank(params, statistics, num_params=budget)
    root = np.linalg.cholesky(moment[0]).T
    tail = np.sum(np.linalg.svd(root @ np.concatenate(list(own), 1), compute_uv=False)[2:] ** 2)
    np.testing.assert_allclose(weighted_error(own, kernels(made)["up"], moment), tail, rtol=1e-5)


def test_the_weighted_way_out_is_the_minimum():
    params = bank("mlp")
    own, moment = kernels(params)["down"], moments(5, 20, F)
    statistics = calibration(params)
    statistics["down"] = statistics["down"].replace(second_moment=jnp.asarray(moment, jnp.float32))
    made = MoLE(weighted=True).compress_bank(params, statistics, num_params=E * (D + F) + 4 * UNIT)
    stacked = np.concatenate([np.linalg.cholesky(m).T @ kernel for m, kernel in zip(moment, own, strict=True)])
    rank = made["down"].v.shape[0]
    tail = np.sum(np.linalg.svd(stacked, compute_uv=False)[rank:] ** 2)
    np.testing.assert_allclose(weighted_error(own, kernels(made)["down"], moment), tail, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_moments_of_few_rows_and_a_dead_expert(scale):
    params, budget = up_only(4)
    moment = moments(6, 2, D) * scale  # two rows for six directions
    moment[1] = 0.0
    statistics = calibration(params)
    statistics["up"] = statistics["up"].replace(second_moment=jnp.asarray(moment, jnp.float32))
    made = MoLE(share_down=False).compress_bank(params, statistics, num_params=budget)
    found = kernels(made)["up"]
    assert np.all(np.isfinite(found))
    # Up to six directions have rows, four are kept; the dead expert has the projection of its kernel, not zeros.
    assert np.sum((found[1] - kernels(params)["up"][1]) ** 2) < np.sum(kernels(params)["up"][1] ** 2)


def test_what_is_wrong_is_named():
    params, half = bank(), num_params(bank()) // 2
    with pytest.raises(SpecError, match="no 'second_moment' of 'up'"):
        MoLE(weighted=True).compress_bank(params, {}, num_params=half)
    statistics = calibration(bank(dim=D + 1))
    with pytest.raises(SpecError, match=r"'up' hold second moments of shape \(4, 7, 7\)"):
        MoLE().compress_bank(params, statistics, num_params=half)
    assert MoLE(weighted=True).needs == ("second_moment",)
    assert MoLE().needs == ()
    assert isinstance(params["up"], Dense)
