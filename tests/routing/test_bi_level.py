"""Two levels of routing, by hand, against Switch, and through an exchange in two levels."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.routing.bi_level import BiLevelRouter
from moejax.routing.top_k import TopKRouter
from tests.kernels.eight_devices import output_of


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


PROGRAM = """
import json
import jax, jax.numpy as jnp
from moejax.exchange.all_to_all import AllToAll
from moejax.experts.mlp import MlpExperts
from moejax.layers.moe import MoE
from moejax.routing.bi_level import BiLevelRouter
from moejax.sharding.mesh import MeshSpec
router = BiLevelRouter(num_experts=8, num_nodes=2, balance_loss_weight=0.1, node_balance_loss_weight=0.1)
x = jax.random.normal(jax.random.key(1), (8, 6, 8))
def run(exchange):
    moe = MoE(router=router, experts=MlpExperts(expert_dim=6), exchange=exchange)
    params, state = moe.init(jax.random.key(0), 8)
    def loss(params, x):
        out = moe.apply(params, state, x)
        return jnp.sum(jnp.sin(out.tokens)) + sum(out.losses.values())
    return jax.value_and_grad(loss, argnums=(0, 1))(params, x)
alone = jax.jit(lambda: run(AllToAll()))()
with jax.set_mesh(MeshSpec(data=1, expert=8).build()):
    for group in (None, 4):  # four devices are a node
        found = jax.jit(lambda: run(AllToAll(group=group)))()
        error = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), jax.device_get(found), jax.device_get(alone))
        print(json.dumps([group, max(jax.tree.leaves(error)), float(max(jnp.max(jnp.abs(a)) for a in jax.tree.leaves(alone)))]))
"""


@pytest.mark.slow
def test_an_exchange_in_two_levels_equals_a_flat_one():
    rows = [json.loads(line) for line in output_of(PROGRAM).splitlines()]
    assert [row[0] for row in rows] == [None, 4]
    assert all(error <= 1e-5 * max(1.0, largest) for _, error, largest in rows)
