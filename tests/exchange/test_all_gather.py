"""A plan cut to some experts, by hand, and what travels."""

import functools

import jax
import jax.numpy as jnp

from moejax.core.plans import ExpertChoice, TokenChoice
from moejax.exchange.all_gather import AllGather
from moejax.exchange.own_experts import own_experts
from moejax.experts.mlp import MlpExperts
from moejax.sharding.mesh import MeshSpec
from tests.exchange.wire import sent


def test_own_experts_by_hand():
    plan = TokenChoice(jnp.array([[[0, 3], [2, -1], [3, 2]]]), jnp.ones((1, 3, 2)), num_experts=4, capacity=2)
    own = own_experts(plan, jnp.int32(2), 2)  # experts 2 and 3 are now 0 and 1
    assert own.expert.tolist() == [[[-1, 1], [0, -1], [1, 0]]]
    assert (own.num_experts, own.capacity) == (2, 2)
    chosen = ExpertChoice(jnp.arange(4)[None, :, None], jnp.ones((1, 4, 1)))
    assert own_experts(chosen, jnp.int32(1), 2).token.tolist() == [[[1], [2]]]


def test_bytes():
    # One of eight groups each: tokens and plan are gathered, outputs of all groups are scattered back in sums.
    groups, tokens, dim, experts, choices = 8, 6, 16, 8, 2
    plan = TokenChoice(
        jnp.zeros((groups, tokens, choices), jnp.int32), jnp.ones((groups, tokens, choices)), num_experts=experts, capacity=3
    )  # fmt: skip
    bank = MlpExperts(expert_dim=32)
    params = jax.eval_shape(functools.partial(bank.init, num_experts=experts, dim=dim), jax.random.key(0))
    with jax.sharding.use_abstract_mesh(MeshSpec(data=1, expert=8).abstract(8)):
        found = sent(
            lambda plan, x, params: AllGather().dispatch("gather", plan, x, params, bank.apply),
            plan, jnp.zeros((groups, tokens, dim)), params,
        )  # fmt: skip
    assert found["all_gather", "expert"] == 4 * tokens * dim + 2 * 4 * tokens * choices
    assert found["reduce_scatter", "expert"] == groups * 4 * tokens * dim
