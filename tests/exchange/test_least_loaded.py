"""What spills, what travels, and rooms that are smaller than all rows. Equality to one device: test_conformance.py."""

import functools

import jax
import jax.numpy as jnp
import pytest

from moejax.core.errors import SpecError
from moejax.core.plans import TokenChoice
from moejax.exchange.least_loaded import LeastLoaded
from moejax.experts.mlp import MlpExperts
from moejax.sharding.mesh import MeshSpec
from tests.exchange.wire import sent

G, S, D, E, K = 8, 6, 16, 8, 2


def test_peak_of_rows_by_hand():
    # One ring of four devices of one expert each, 12 choices: 9 for expert 0, one for each of the others. The mean is 3.
    expert = jnp.asarray([0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0], jnp.int32).reshape(4, 3, 1)
    plan = TokenChoice(expert, jnp.ones((4, 3, 1)), num_experts=4)
    with jax.sharding.use_abstract_mesh(MeshSpec(data=1, expert=4).abstract(4)):
        peaks = [
            float(LeastLoaded(min_rows=least, capacity_factor=factor).metrics("auto", plan)["peak_rows"])
            for least, factor in ((1, 1.0), (2, 4 / 3), (3, 4 / 3), (4, 1.0))
        ]
    # Twos fill the others to 3: loads 3 3 3 3. To 4 each: 9 - 3 - 2 = 4. Threes: 9 - 3 - 3, then 3 is under the limit. Fours: none.
    assert peaks == pytest.approx([1.0, 4 / 3, 4 / 3, 3.0])


def test_without_a_mesh_nothing_is_said():
    plan = TokenChoice(jnp.zeros((4, 3, 1), jnp.int32), jnp.ones((4, 3, 1)), num_experts=4)
    assert LeastLoaded(receive_factor=2.0).metrics("auto", plan) == {}


def test_bytes():
    # Rows as all_to_all sends them, in chunks of M = G/8 S K; E counts of each device; one place on each for weights.
    plan = TokenChoice(jnp.zeros((G, S, K), jnp.int32), jnp.ones((G, S, K)), num_experts=E)
    bank = MlpExperts(expert_dim=32)
    params = jax.eval_shape(functools.partial(bank.init, num_experts=E, dim=D), jax.random.key(0))
    with jax.sharding.use_abstract_mesh(MeshSpec(data=1, expert=8).abstract(8)):
        found = sent(
            lambda plan, x, params: LeastLoaded(num_guests=2).dispatch("ragged", plan, x, params, bank.apply),
            plan, jnp.zeros((G, S, D)), params,
        )  # fmt: skip
    places = E // 8 + 2
    assert found["reduce_scatter", "expert"] == 4 * 2 * 8 * bank.num_params(1, D)
    assert found["all_gather", "expert"] == 4 * E
    assert found["all_to_all", "expert"] == 2 * 4 * 8 * (S * K) * D + 4 * 8 * places + 2 * 4 * 8


def test_wrong_fields():
    for field in ("threshold", "capacity_factor", "min_rows", "num_guests"):
        with pytest.raises(SpecError, match=f"exchange.{field}=0"):
            LeastLoaded(**{field: 0 if field in ("min_rows", "num_guests") else 0.5})
