"""Experts by time interval: the partition, the softmax inside an interval, its balance loss, and what cannot be built."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.losses import balance_loss
from moejax.routing.time_groups import TimeGroupsRouter


def test_intervals_partition_all_steps_exactly_once() -> None:
    router = TimeGroupsRouter(num_experts=8, boundaries=(100, 101, 700))
    owners = np.zeros((1003, 8), int)
    for step in range(-1, 1002):
        owners[step + 1, list(router.experts_of(step))] += 1
    assert (owners.sum(axis=1) == 2).all()  # one interval of two experts each
    # Steps -1 to 99, 100 alone, 101 to 699, 700 to 1001.
    np.testing.assert_array_equal(owners.sum(axis=0), [101, 101, 1, 1, 599, 599, 302, 302])
    # The compiled choice is the same partition.
    steps = jnp.arange(-1, 1002, dtype=jnp.int32)[:, None]
    params, state = router.init(jax.random.key(0), 4)
    x = jax.random.normal(jax.random.key(1), (1003, 1, 4))
    expert = jax.jit(lambda x, ids: router.route(params, state, x, token_ids=ids).plan.expert)(x, steps)[:, 0, 0]
    assert owners[np.arange(1003), expert].all()


def test_the_gates_of_an_interval_by_hand() -> None:
    router = TimeGroupsRouter(num_experts=4, num_selected_experts=2, boundaries=(10,))
    params = {"kernel": jnp.log(jnp.asarray([[1.0, 3.0, 8.0, 2.0]]))}
    x = jnp.ones((2, 1, 1))
    plan = router.route(params, {}, x, token_ids=jnp.asarray([[9], [10]], jnp.int32)).plan
    # Step 9: experts 0 and 1 with 1 : 3; step 10: experts 2 and 3 with 8 : 2.
    np.testing.assert_array_equal(plan.expert[:, 0], [[1, 0], [2, 3]])
    np.testing.assert_allclose(plan.weight[:, 0], [[0.75, 0.25], [0.8, 0.2]], rtol=1e-6)
    # No time: the best two of all, of 14.
    plan = router.route(params, {}, x).plan
    np.testing.assert_array_equal(plan.expert[:, 0], [[2, 1], [2, 1]])
    np.testing.assert_allclose(plan.weight[0, 0], [8 / 14, 3 / 14], rtol=1e-6)


def test_one_expert_per_interval_has_weight_one() -> None:
    router = TimeGroupsRouter(num_experts=3, boundaries=(10, 20))
    params, state = router.init(jax.random.key(0), 4)
    x = jax.random.normal(jax.random.key(1), (3, 5, 4))
    ids = jnp.broadcast_to(jnp.asarray([25, 0, 10], jnp.int32)[:, None], (3, 5))
    plan = router.route(params, state, x, token_ids=ids).plan
    np.testing.assert_array_equal(plan.expert[..., 0], np.broadcast_to([[2], [0], [1]], (3, 5)))
    np.testing.assert_array_equal(plan.weight, 1.0)


def test_the_balance_loss_is_that_of_each_interval() -> None:
    router = TimeGroupsRouter(num_experts=4, num_selected_experts=1, boundaries=(10,), balance_loss_weight=0.5)
    params, state = router.init(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (4, 6, 3))
    ids = jnp.broadcast_to(jnp.asarray([0, 30, 40, 50], jnp.int32)[:, None], (4, 6))
    found = router.route(params, state, x, token_ids=ids).losses["balance"]
    expected = 0.0
    for rows, experts in ((slice(0, 1), slice(0, 2)), (slice(1, 4), slice(2, 4))):
        tokens = x[rows].reshape(1, -1, 3)
        probs = jax.nn.softmax(tokens @ params["kernel"][:, experts])
        chosen = jnp.argmax(probs, axis=-1).astype(jnp.int32)[..., None]
        expected += tokens.shape[1] / 24 * float(balance_loss(probs, chosen))
    np.testing.assert_allclose(found, 0.5 * expected, rtol=1e-5)
    # Even routing gives 1 whatever the times are: a kernel of zeros has even gates, and all choose the first expert,
    # f = (1, 0) and P = (1/2, 1/2) in each interval: 2 * 1/2 = 1.
    even = router.route({"kernel": jnp.zeros((3, 4))}, state, x, token_ids=ids).losses["balance"]
    np.testing.assert_allclose(even, 0.5, rtol=1e-6)


def test_gradients_reach_only_the_interval_of_the_time() -> None:
    router = TimeGroupsRouter(num_experts=4, num_selected_experts=2, boundaries=(10,), balance_loss_weight=0.1)
    params, state = router.init(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (1, 6, 3))

    def total(params):
        routed = router.route(params, state, x, token_ids=jnp.full((1, 6), 3, jnp.int32))
        return jnp.square(routed.plan.weight).sum() + routed.losses["balance"]

    gradient = jax.grad(total)(params)["kernel"]
    assert np.abs(gradient[:, :2]).max() > 0
    np.testing.assert_array_equal(gradient[:, 2:], 0.0)


def test_capacity_counts_the_experts_of_one_interval() -> None:
    router = TimeGroupsRouter(num_experts=4, num_selected_experts=1, boundaries=(10,), capacity_factor=1.0)
    params, state = router.init(jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (2, 6, 3))
    assert router.route(params, state, x, token_ids=jnp.zeros((2, 6), jnp.int32)).plan.capacity == 3  # 6 tokens / 2
    assert router.route(params, state, x).plan.capacity == 2  # ceil(6 / 4)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"boundaries": (10, 10)}, r"boundaries=\(10, 10\) must ascend"),
        ({"boundaries": (10, 5)}, "must ascend"),
        ({"num_experts": 5, "boundaries": (10,)}, "num_experts=5 cannot be shared alike by 2 intervals"),
        ({"num_experts": 4, "num_selected_experts": 3, "boundaries": (10,)}, "more than the 2 experts that each of 2"),
        ({"balance_loss_weight": -1.0}, "balance_loss_weight=-1.0"),
    ],
)
def test_routers_that_cannot_be(fields: dict, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        TimeGroupsRouter(**{"num_experts": 6, **fields})
