"""Two levels of routing through an exchange in two levels, on eight simulated devices."""

import pytest

from tests.child_programs import lines_of

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
    rows = lines_of("-c", PROGRAM)
    assert [row[0] for row in rows] == [None, 4]
    assert all(error <= 1e-5 * max(1.0, largest) for _, error, largest in rows)
