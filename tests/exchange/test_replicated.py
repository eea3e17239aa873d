"""Copies by a table: what travels, and which tables do not fit. Equality to one device: test_conformance.py."""

import functools

import jax
import jax.numpy as jnp
import pytest

from moejax.core.errors import SpecError
from moejax.core.plans import TokenChoice
from moejax.exchange.guests import _rounds
from moejax.exchange.replicated import Replicated
from moejax.experts.mlp import MlpExperts
from moejax.placement.replicas import copies_by_load
from moejax.sharding.mesh import MeshSpec
from tests.exchange.wire import sent

G, S, D, E, K = 8, 6, 16, 8, 2
BANK = MlpExperts(expert_dim=32)


def run(exchange, count):
    plan = TokenChoice(jnp.zeros((G, S, K), jnp.int32), jnp.ones((G, S, K)), num_experts=E)
    params = jax.eval_shape(functools.partial(BANK.init, num_experts=E, dim=D), jax.random.key(0))
    with jax.sharding.use_abstract_mesh(MeshSpec(data=1, expert=4).abstract(4)):
        return count(
            lambda plan, x, params: exchange.dispatch("ragged", plan, x, params, BANK.apply),
            plan, jnp.zeros((G, S, D)), params,
        )  # fmt: skip


def test_rounds_by_hand():
    # Device 0 sends twice, so that two rounds are needed; what device 2 sends fits into the first.
    moves = [(0, 1, 10), (0, 2, 11), (2, 3, 12)]
    assert _rounds(moves) == [[moves[0], moves[2]], [moves[1]]]


def test_bytes_of_copies():
    # Experts 0 and 1 live on device 0. Two copies of expert 0 are two rounds of one expert's weights each, expert 4 joins the first.
    found = run(Replicated(guests=((4,), (0,), (), (0,))), sent)
    assert found["ppermute", "expert"] == 2 * 4 * BANK.num_params(1, D)


def test_tables_from_loads_fit():
    guests = copies_by_load([60, 1, 1, 1, 9, 1, 1, 1], 4, 2)
    assert any(0 in own for own in guests)
    run(Replicated(guests=guests), lambda f, *args: jax.eval_shape(f, *args))


@pytest.mark.parametrize(
    ("guests", "message"),
    [
        (((4,), (0,)), "names 2 devices, but mesh expert=4"),
        (((1,), (), (), ()), r"guests\[0\] names expert 1, but it is at home there"),
        (((8,), (), (), ()), "names expert 8, but there are 8"),
    ],
)
def test_tables_that_do_not_fit(guests, message):
    with pytest.raises(SpecError, match=message):
        run(Replicated(guests=guests), sent)
    with pytest.raises(SpecError, match="each once"):
        Replicated(guests=((2, 2),))
