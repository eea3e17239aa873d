"""Soft routing by hand: 4 tokens x 3 experts with one slot, D = 2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.soft import SoftRouter

# Lengths do not matter: tokens (1, 0), (0, 1), (-1, 0) and nothing; slots (1, 0), (0.6, 0.8), (0, 1).
X = jnp.asarray([[[3.0, 0.0], [0.0, 0.5], [-7.0, 0.0], [0.0, 0.0]]])
MU = jnp.asarray([[2.0, 3.0, 0.0], [0.0, 4.0, 5.0]])[:, :, None]
# Cosines times log 2, exponentiated: 2^1, 2^0.6 = 1.515717, 2^0; 2^0, 2^0.8 = 1.741101, 2^1; 2^-1, 2^-0.6 = 0.659754, 2^0; 1.
EXP = np.asarray([[2.0, 1.515717, 1.0], [1.0, 1.741101, 2.0], [0.5, 0.659754, 1.0], [1.0, 1.0, 1.0]])


def test_dispatch_and_combine_by_hand():
    params = {"mu": MU, "scale": jnp.asarray(np.log(2.0), jnp.float32)}
    routed = jax.jit(SoftRouter(num_experts=3).route)(params, {}, X)
    # Dispatch, slot of expert 0: 2, 1, 0.5, 1 over their sum 4.5.
    np.testing.assert_allclose(routed.plan.dispatch[0, :, 0, 0], np.asarray([2.0, 1.0, 0.5, 1.0]) / 4.5, rtol=1e-5)
    np.testing.assert_allclose(routed.plan.dispatch[0, :, :, 0], EXP / EXP.sum(axis=0), rtol=1e-5)
    # Combine, token 0: 2, 1.515717, 1 over their sum 4.515717.
    np.testing.assert_allclose(routed.plan.combine[0, 0, :, 0], np.asarray([2.0, 1.515717, 1.0]) / 4.515717, rtol=1e-5)
    np.testing.assert_allclose(routed.plan.combine[0, :, :, 0], EXP / EXP.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(routed.metrics["load"], (EXP / EXP.sum(axis=1, keepdims=True)).mean(axis=0), rtol=1e-5)


def test_combine_is_over_all_slots_of_all_experts():
    # Zero scale: all logits are zero; 3 experts of 2 slots share a token equally, 4 tokens share a slot equally.
    params, _ = SoftRouter(num_experts=3, num_slots=2).init(jax.random.key(0), 2)
    plan = jax.jit(SoftRouter(num_experts=3, num_slots=2).route)(params | {"scale": jnp.zeros(())}, {}, X).plan
    np.testing.assert_allclose(plan.combine, np.full((1, 4, 3, 2), 1 / 6), rtol=1e-6)
    np.testing.assert_allclose(plan.dispatch, np.full((1, 4, 3, 2), 1 / 4), rtol=1e-6)


def test_relabelling_experts_relabels_the_plan():
    router = SoftRouter(num_experts=3, num_slots=2)
    params, _ = router.init(jax.random.key(0), 2)
    order = jnp.asarray([2, 0, 1])
    plan = jax.jit(router.route)(params, {}, X).plan
    relabelled = jax.jit(router.route)(params | {"mu": params["mu"][:, order]}, {}, X).plan
    np.testing.assert_allclose(plan.combine[:, :, order], relabelled.combine, rtol=1e-6)


def test_init():
    params, state = SoftRouter(num_experts=3, num_slots=4).init(jax.random.key(0), 64)
    assert params["mu"].shape == (64, 3, 4) and params["scale"] == 1.0 and state == {}
    # lecun_normal over the whole shape: variance 1 / (64 * 3).
    assert abs(float(params["mu"].std()) * np.sqrt(64 * 3) - 1.0) < 0.15


def test_slots_from_a_capacity_factor():
    # 1.0 * 196 / 128 = 1.53 -> 2; 0.5 * 8 / 3 = 1.33 -> 1.
    fields = {"num_slots": None}
    assert SoftRouter(num_experts=128, capacity_factor=1.0, group_size=196, **fields).slots() == 2
    assert SoftRouter(num_experts=3, capacity_factor=0.5, group_size=8, **fields).slots() == 1


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_slots": 0}, "num_slots=0 must be at least 1"),
        ({"capacity_factor": 1.0}, "give one and set the other None"),
        ({"num_slots": None}, "give one and set the other None"),
        ({"num_slots": None, "capacity_factor": 1.0}, "needs group_size"),
        ({"num_slots": None, "capacity_factor": 0.1, "group_size": 4}, "rounds to zero"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(SpecError, match=message):
        SoftRouter(num_experts=3, **fields)
