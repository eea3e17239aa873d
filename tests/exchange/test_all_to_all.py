"""Where rows go, by hand; what travels, in bytes; and what is refused before anything is compiled."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.contracts import enter
from moejax.core.errors import SpecError
from moejax.core.plans import Merge, TokenChoice
from moejax.exchange.all_to_all import AllToAll
from moejax.exchange.contract import Devices
from moejax.exchange.swap import narrow_swap
from moejax.experts.latent import LatentExperts
from moejax.experts.mlp import MlpExperts
from moejax.layers.moe import MoE
from moejax.routing.top_k import TopKRouter
from moejax.sharding.mesh import MeshSpec
from tests.exchange.wire import sent

G, S, D, E, K, C = 8, 6, 16, 8, 2, 3
ONE = Devices(size=1)


def test_int8_rounds_to_the_largest_of_a_row():
    x = jnp.array([[[127.0, -1.4, 0.4], [0.0, 0.0, 0.0]]])
    y, pullback = jax.vjp(lambda x: narrow_swap(x, ONE, None, "int8"), x)
    np.testing.assert_allclose(y, [[[127.0, -1.0, 0.0], [0.0, 0.0, 0.0]]], rtol=1e-6)
    np.testing.assert_allclose(pullback(jnp.full_like(x, 254.0))[0], np.full_like(x, 254.0), rtol=1e-6)


def test_bfloat16_rounds():
    y = narrow_swap(jnp.full((1, 2, 2), 1 + 2**-9, jnp.float32), ONE, None, "bfloat16")
    assert y.dtype == jnp.float32 and np.all(np.asarray(y) == 1.0)


@dataclasses.dataclass
class Case:
    bank: object = dataclasses.field(default_factory=lambda: MlpExperts(expert_dim=32))
    capacity: int | None = C
    strategy: str = "gather"


def bytes_of(exchange, case, **sizes):
    plan = TokenChoice(jnp.zeros((G, S, K), jnp.int32), jnp.ones((G, S, K)), num_experts=E, capacity=case.capacity)
    params = jax.eval_shape(functools.partial(case.bank.init, num_experts=E, dim=D), jax.random.key(0))

    def run(plan, x, params):
        return exchange.dispatch(case.strategy, plan, enter(case.bank, params, x), params, case.bank.apply)

    with jax.sharding.use_abstract_mesh(MeshSpec(**sizes).abstract(8)):
        return sent(run, plan, jnp.zeros((G, S, D)), params)


def test_bytes_of_buffers():
    # Each of eight devices has one group, and sends E C D float32 there and back.
    assert bytes_of(AllToAll(), Case(), data=1, expert=8) == {("all_to_all", "expert"): 2 * 4 * E * C * D}
    # Groups over data too: 2 groups on each expert row.
    assert bytes_of(AllToAll(), Case(), data=2, expert=4) == {("all_to_all", "expert"): 2 * 4 * E * C * D}


def test_bytes_of_narrow_numbers():
    assert bytes_of(AllToAll(wire_dtype="bfloat16"), Case(), expert=8)["all_to_all", "expert"] == 2 * 2 * E * C * D
    # int8, and a float32 scale per row.
    assert bytes_of(AllToAll(wire_dtype="int8"), Case(), expert=8)["all_to_all", "expert"] == 2 * E * C * (D + 4)


def test_bytes_of_rows():
    # Without a ragged collective each device keeps room for all its M = G/8 S K rows in each chunk. Counts are E int32, and so are
    # the offsets that the ragged collective of a TPU or GPU asks for, once there and once back.
    sent_bytes = bytes_of(AllToAll(), Case(capacity=None, strategy="ragged"), expert=8)["all_to_all", "expert"]
    assert sent_bytes == 2 * 4 * 8 * (S * K) * D + 4 * E + 2 * 4 * 8


def test_tensor_parallel_devices_send_no_token_twice():
    one = bytes_of(AllToAll(), Case(), data=2, expert=4)["all_to_all", "expert"]
    two = bytes_of(AllToAll(), Case(), data=1, expert=4, model=2)
    # Half the devices along the batch, twice the groups on each: the same tokens per device pair, half the width each.
    assert two["all_to_all", "expert"] == 2 * one / 2
    assert one * 2 - two["all_to_all", "expert"] == (2 - 1) / 2 * (2 * one)  # (TP - 1) / TP of what all would send


def test_latent_experts_send_the_latent_width():
    bank = LatentExperts(expert_dim=32, rank=4)
    wide = bytes_of(AllToAll(), Case(), expert=8)["all_to_all", "expert"]
    assert bytes_of(AllToAll(), Case(bank=bank), expert=8)["all_to_all", "expert"] == wide * 4 / D


def test_two_levels_send_each_number_twice():
    flat = bytes_of(AllToAll(), Case(), expert=8)["all_to_all", "expert"]
    assert bytes_of(AllToAll(group=4), Case(), expert=8)["all_to_all", "expert"] == 2 * flat


@pytest.mark.parametrize(
    ("exchange", "sizes", "groups", "message"),
    [
        (AllToAll(), {"expert": 8}, 4, "4 groups of tokens cannot be split over the 8 devices"),
        (AllToAll(group=3), {"expert": 8}, 8, "group=3 does not divide mesh expert=8"),
        (AllToAll(), {"expert": 16}, 16, "expert=16 does not divide the 8 experts"),
        (AllToAll(), {"expert": 2, "model": 32}, 8, "model=32 does not divide the width 16"),
    ],
)
def test_what_does_not_divide(exchange, sizes, groups, message):
    plan = TokenChoice(jnp.zeros((groups, S, K), jnp.int32), jnp.ones((groups, S, K)), num_experts=E, capacity=C)
    bank = MlpExperts(expert_dim=32)
    params = jax.eval_shape(functools.partial(bank.init, num_experts=E, dim=D), jax.random.key(0))
    devices = int(np.prod(list(sizes.values())))
    with (
        jax.sharding.use_abstract_mesh(MeshSpec(data=1, **sizes).abstract(devices)),
        pytest.raises(SpecError, match=message),
    ):
        jax.eval_shape(
            lambda plan, x, params: exchange.dispatch("gather", plan, x, params, bank.apply),
            plan, jnp.zeros((groups, S, D)), params,
        )  # fmt: skip


def test_wrong_fields():
    with pytest.raises(SpecError, match="Did you mean 'bfloat16'"):
        AllToAll(wire_dtype="bfloat")
    with pytest.raises(SpecError, match="group=0"):
        AllToAll(group=0)
    with pytest.raises(SpecError, match="receive_factor=0.5 must be at least 1"):
        AllToAll(receive_factor=0.5)


def test_a_bounded_room_bounds_the_rows():
    bank, shapes = MlpExperts(expert_dim=32), []
    plan = TokenChoice(jnp.zeros((G, S, K), jnp.int32), jnp.ones((G, S, K)), num_experts=E)
    params = jax.eval_shape(functools.partial(bank.init, num_experts=E, dim=D), jax.random.key(0))

    def apply(params, layout):
        shapes.append(layout.tokens.shape)
        return bank.apply(params, layout)

    with jax.sharding.use_abstract_mesh(MeshSpec(data=1, expert=8).abstract(8)):
        for factor in (None, 2.0, 1.3):
            move = functools.partial(AllToAll(receive_factor=factor).dispatch, "ragged", apply=apply)
            jax.eval_shape(lambda plan, x, params: move(plan, x, params), plan, jnp.zeros((G, S, D)), params)  # noqa: B023
    assert shapes == [(8 * S * K, D), (2 * S * K, D), (16, D)]  # 1.3 * 12 = 15.6 rows, rounded up


def test_merged_experts_are_gathered():
    bank = MlpExperts(expert_dim=32)
    params = jax.eval_shape(functools.partial(bank.init, num_experts=E, dim=D), jax.random.key(0))
    with jax.sharding.use_abstract_mesh(MeshSpec(expert=8).abstract(8)):
        found = sent(
            lambda plan, x, params: AllToAll().dispatch("merge", plan, x, params, bank.apply),
            Merge(jnp.ones((G, E)) / E), jnp.zeros((G, S, D)), params,
        )  # fmt: skip
    assert found == {("all_gather", "expert"): 4 * bank.num_params(E, D) / 8}  # each sends its own experts


def test_a_layer_tells_what_found_no_room():
    # All tokens of eight devices choose experts 0 and 1, both on the first of four devices of a ring: four times its own rows
    # want to be there, half of them find room.
    router = TopKRouter(num_experts=8, num_selected_experts=2, noise_std=0.0)
    moe = MoE(router=router, experts=MlpExperts(expert_dim=4), exchange=AllToAll(receive_factor=2.0))
    params, state = moe.init(jax.random.key(0), D)
    plan = TokenChoice(jnp.broadcast_to(jnp.array([0, 1], jnp.int32), (G, S, K)), jnp.ones((G, S, K)), num_experts=E)
    with jax.sharding.use_abstract_mesh(MeshSpec(data=2, expert=4).abstract(8)):
        assert float(moe.exchange.metrics("auto", plan)["beyond_room"]) == 0.5
        assert "beyond_room" in jax.eval_shape(lambda x: moe.apply(params, state, x).metrics, jnp.zeros((G, S, D)))
    assert "beyond_room" not in jax.eval_shape(lambda x: moe.apply(params, state, x).metrics, jnp.zeros((G, S, D)))
