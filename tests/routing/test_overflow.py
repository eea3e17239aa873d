"""Choices above capacity, by hand and against plain loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.overflow import fit_to_capacity, rank_in_expert
from moejax.routing.top_k import TopKRouter

# Four tokens, three experts, one choice each: expert 0 is wanted by tokens 0, 1 and 2, expert 1 by token 3.
GATES = jnp.array([[[0.5, 0.4, 0.1], [0.7, 0.1, 0.2], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]])
EXPERT = jnp.array([[[0], [0], [0], [1]]], jnp.int32)
WEIGHT = jnp.take_along_axis(GATES, EXPERT, axis=-1)


def fit(capacity, reroute, expert=EXPERT, gates=GATES):
    weight = jnp.take_along_axis(gates, jnp.maximum(expert, 0), axis=-1)
    return fit_to_capacity(expert, weight, gates, gates, capacity, reroute=reroute)


def test_ranks_by_hand():
    expert = jnp.array([[2, 0, 2, 2, 0]], jnp.int32)
    score = jnp.array([[0.1, 0.5, 0.9, 0.1, 0.7]])
    assert rank_in_expert(expert, score).tolist() == [[1, 1, 0, 2, 0]]


def test_drop_by_hand():
    # Capacity 1: expert 0 keeps token 1 (0.7), expert 1 keeps token 3. Two of four choices are given up.
    found = fit(1, reroute=False)
    assert found.expert.tolist() == [[[-1], [0], [-1], [1]]]
    np.testing.assert_allclose(found.weight[0, :, 0], [0, 0.7, 0, 0.5])
    np.testing.assert_allclose([found.metrics[k] for k in ("overflow", "rerouted")], [0.5, 0.0])
    np.testing.assert_allclose(found.metrics["kept_gate"], 1.2 / 2.3, rtol=1e-6)


def test_reroute_by_hand():
    # Capacity 1: tokens 0 and 2 offer to expert 1, which is full; then both offer to expert 2, which has one place and is
    # liked equally by both: the first in place gets it. Token 2 is given up.
    found = fit(1, reroute=True)
    assert found.expert.tolist() == [[[2], [0], [-1], [1]]]
    np.testing.assert_allclose(found.weight[0, :, 0], [0.1, 0.7, 0, 0.5])
    # Capacity 2: expert 0 keeps tokens 1 and 2, and expert 1 has a place for token 0.
    found = fit(2, reroute=True)
    assert found.expert.tolist() == [[[1], [0], [0], [1]]]
    np.testing.assert_allclose(found.weight[0, :, 0], [0.4, 0.7, 0.6, 0.5])
    np.testing.assert_allclose(found.metrics["rerouted"], 0.25)


def test_ample_capacity_changes_nothing():
    for reroute in (False, True):
        found = fit(3, reroute)
        np.testing.assert_array_equal(found.expert, EXPERT)
        np.testing.assert_array_equal(found.weight, WEIGHT)
        assert float(found.metrics["kept_gate"]) == 1.0


def test_choices_not_made_stay_so():
    expert = jnp.array([[[0, -1], [0, 1]]], jnp.int32)
    gates = jnp.array([[[0.6, 0.2, 0.2], [0.5, 0.4, 0.1]]])
    assert fit(1, True, expert, gates).expert.tolist() == [[[0, -1], [2, 1]]]


@pytest.mark.parametrize("seed", range(2))
def test_loads_and_gates(seed):
    G, S, E, K, C = 3, 40, 8, 2, 11
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(G, S, E)) + np.linspace(2, 0, E)  # the first experts are wanted by most
    gates = jax.nn.softmax(jnp.asarray(logits, jnp.float32))
    expert = jax.lax.top_k(gates, K)[1].astype(jnp.int32)
    drop, found = fit(C, False, expert, gates), fit(C, True, expert, gates)
    for fitted in (drop, found):
        for group in np.asarray(fitted.expert):
            assert np.bincount(group[group >= 0], minlength=E).max() <= C
            for row in group:
                assert len(set(row[row >= 0])) == (row >= 0).sum()
    wanted = np.asarray(expert)
    for g, e in np.ndindex(G, E):  # drop keeps the largest gates of every expert
        want = sorted(np.asarray(gates)[g, (wanted[g] == e).any(-1), e], reverse=True)
        kept = sorted(np.asarray(drop.weight)[g][np.asarray(drop.expert)[g] == e], reverse=True)
        np.testing.assert_array_equal(kept, want[:C])
    kept = np.asarray(drop.expert) >= 0
    np.testing.assert_array_equal(np.asarray(found.expert)[kept], wanted[kept])  # nobody is displaced
    assert float(found.metrics["kept_gate"]) > float(drop.metrics["kept_gate"])
    # Room for all: E C = 88 >= S K = 80. A choice is given up only where all experts with room are the token's own.
    for g in range(G):
        load = np.bincount(np.asarray(found.expert)[g].ravel() + 1, minlength=E + 1)[1:]
        for row, want in zip(np.asarray(found.expert)[g], wanted[g], strict=True):
            if -1 in row:
                assert set(np.flatnonzero(load < C)) <= set(row) | set(want)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        *(
            pytest.param(own, marks=pytest.mark.slow)
            for own in ({"renormalize": True}, {"order": "top_k_then_softmax"})
        ),
    ],
)
def test_in_the_router(fields):
    base = TopKRouter(num_experts=4, num_selected_experts=2, noise_std=0.0, **fields)
    limited = dataclasses.replace(base, eval_capacity_factor=1.0, eval_overflow="reroute")
    x = jax.random.normal(jax.random.key(0), (2, 12, 8)) + 0.5
    params, state = base.init(jax.random.key(1), 8)
    params = {"kernel": 2 * params["kernel"]}
    free, plan = base.route(params, state, x).plan, limited.route(params, state, x).plan
    scores = np.exp(np.asarray(x) @ np.asarray(params["kernel"]))
    scores /= scores.sum(-1, keepdims=True)
    chosen = np.take_along_axis(scores, np.asarray(free.expert), axis=-1).sum(-1, keepdims=True)
    found = np.take_along_axis(scores, np.maximum(plan.expert, 0), axis=-1) / (chosen if fields else 1.0)
    assert (np.asarray(plan.expert) != np.asarray(free.expert)).any()
    np.testing.assert_allclose(plan.weight, np.where(np.asarray(plan.expert) >= 0, found, 0.0), rtol=2e-5)
    assert limited.causal is False
    trained = limited.route(params, state, x, key=jax.random.key(2)).plan  # training is not limited
    assert trained.capacity is None and (np.asarray(trained.expert) >= 0).all()


def test_without_a_capacity():
    with pytest.raises(SpecError, match="eval_overflow='drop' needs a capacity"):
        TopKRouter(num_experts=4, eval_overflow="drop")
