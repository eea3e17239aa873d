"""Two levels of routing, by hand and against Switch. Through an exchange in two levels: tests/layers/test_bi_level_on_devices.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.bi_level import BiLevelRouter
from moejax.routing.top_k import TopKRouter


def test_by_hand():
    # Two nodes of two experts; one feature x, kernels 1 and 0 for the nodes, (2, 0) and (0, 1) for their experts.
    params = {"node_kernel": jnp.array([[1.0, 0.0]]), "kernel": jnp.array([[2.0, 0.0, 0.0, 1.0]])}
    x = jnp.array([[[1.0], [-1.0]]])
    router = BiLevelRouter(num_experts=4, num_nodes=2, node_balance_loss_weight=1.0, balance_loss_weight=1.0)
    found = router.route(params, {}, x)
    s1, s2 = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-2.0))
    # x = 1: node 0 with sigmoid(1), there expert 0 with sigmoid(2). x = -1: node 1 with sigmoid(1), there expert 2 with sigmoid(1).
    assert found.plan.expert.tolist() == [[[0], [2]]]
    np.testing.assert_allclose(found.plan.weight[0, :, 0], [s1 * s2, s1 * s1], rtol=1e-6)
    # Nodes: one token each, mean probability one half each: 2 (1/4 + 1/4). Within a node its one token chose the first expert:
    # 2 * 1 * its probability, and both nodes count one half.
    np.testing.assert_allclose(found.losses["node_balance"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(found.losses["balance"], (2 * s2 + 2 * s1) / 2, rtol=1e-6)
    np.testing.assert_allclose(found.metrics["load"], [0.5, 0, 0.5, 0])


def test_gates_are_a_distribution_over_all_experts():
    router = BiLevelRouter(num_experts=6, num_nodes=3)
    params, _ = router.init(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (2, 5, 8))
    node = jax.nn.softmax(x @ params["node_kernel"])
    local = jax.nn.softmax((x @ params["kernel"]).reshape(2, 5, 3, 2))
    gates = (node[..., None] * local).reshape(2, 5, 6)
    np.testing.assert_allclose(gates.sum(-1), 1.0, rtol=1e-6)
    plan = router.route(params, {}, x).plan
    np.testing.assert_allclose(
        plan.weight, np.take_along_axis(np.asarray(gates), np.asarray(plan.expert), -1), rtol=1e-5
    )
    best_node = np.asarray(node).argmax(-1)
    np.testing.assert_array_equal(np.asarray(plan.expert)[..., 0] // 2, best_node)


@pytest.mark.slow
def test_one_node_is_switch():
    switch = TopKRouter(num_experts=4, noise_std=0.0, balance_loss_weight=0.3, capacity_factor=1.0)
    router = BiLevelRouter(num_experts=4, num_nodes=1, balance_loss_weight=0.3, capacity_factor=1.0)
    params, _ = router.init(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (3, 7, 8))

    def total(router, kernel):
        routed = router.route({"kernel": kernel, "node_kernel": params["node_kernel"]}, {}, x)
        wave = jnp.sum(routed.plan.weight * jnp.arange(21, dtype=jnp.float32).reshape(3, 7, 1))
        return wave + routed.losses["balance"], routed

    (one, found), slope = jax.value_and_grad(functools.partial(total, router), has_aux=True)(params["kernel"])
    (two, expected), wanted = jax.value_and_grad(functools.partial(total, switch), has_aux=True)(params["kernel"])
    np.testing.assert_array_equal(found.plan.expert, expected.plan.expert)
    assert found.plan.capacity == expected.plan.capacity
    np.testing.assert_allclose(one, two, rtol=1e-6)
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-6)


def test_nodes_that_do_not_divide():
    with pytest.raises(SpecError, match="num_nodes=3 must divide num_experts=4"):
        BiLevelRouter(num_experts=4, num_nodes=3)
