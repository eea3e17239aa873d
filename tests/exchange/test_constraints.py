"""The way of the compiler: buffers only."""

import functools

import jax
import jax.numpy as jnp
import pytest

from moejax.core.errors import SpecError
from moejax.core.plans import TokenChoice
from moejax.exchange.constraints import Constraints
from moejax.experts.mlp import MlpExperts
from moejax.sharding.mesh import MeshSpec
from tests.exchange.wire import sent


def run(strategy):
    plan = TokenChoice(jnp.zeros((8, 6, 2), jnp.int32), jnp.ones((8, 6, 2)), num_experts=8, capacity=3)
    bank = MlpExperts(expert_dim=32)
    params = jax.eval_shape(functools.partial(bank.init, num_experts=8, dim=16), jax.random.key(0))
    with jax.sharding.use_abstract_mesh(MeshSpec(expert=8).abstract(8)):
        return sent(
            lambda plan, x, params: Constraints().dispatch(strategy, plan, x, params, bank.apply),
            plan, jnp.zeros((8, 6, 16)), params,
        )  # fmt: skip


def test_nothing_is_moved_by_hand():
    assert run("gather") == {}


def test_rows_are_refused():
    with pytest.raises(SpecError, match="use dispatch='einsum' or 'gather'"):
        run("ragged")
