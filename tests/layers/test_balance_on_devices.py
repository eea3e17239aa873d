"""Balance losses are those of the global batch, whatever the mesh: eight simulated devices against one."""

import pytest

from tests.child_programs import lines_of

PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from moejax.experts.mlp import MlpExperts
from moejax.layers.moe import MoE
from moejax.routing.top_k import TopKRouter
from moejax.sharding.mesh import BATCH_AXES, MeshSpec
names = ("", "device_", "sequence_")
x = jax.random.normal(jax.random.key(1), (8, 6, 8))
x = x.at[:4].add(1.0)  # the halves of the batch want different experts
def losses(groups, kernel, x):
    router = TopKRouter(num_experts=8, num_selected_experts=2, noise_std=0.0, num_devices=4, balance_groups=groups,
        importance_loss_weight=0.1, z_loss_weight=0.1, **{f"{name}balance_loss_weight": 0.1 for name in names})
    moe = MoE(router=router, experts=MlpExperts(expert_dim=6))
    params, state = jax.eval_shape(lambda: moe.init(jax.random.key(0), 8))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params) | {"router": {"kernel": kernel}}
    return moe.apply(params, state, x).losses
kernel = jax.random.normal(jax.random.key(2), (8, 8))
for groups in ("each", "together"):
    both = lambda kernel, x: (losses(groups, kernel, x), jax.grad(lambda k: sum(losses(groups, k, x).values()))(kernel))
    alone = jax.device_get(jax.jit(both)(kernel, x))
    mesh = MeshSpec(data=2, expert=4).build()
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, P(BATCH_AXES)))
        found = jax.device_get(jax.jit(both)(kernel, split))
    error = float(jnp.max(jnp.abs(found[1] - alone[1])))
    print(json.dumps([groups, {k: float(v) for k, v in alone[0].items()}, {k: float(v) for k, v in found[0].items()}, error]))
"""


@pytest.mark.slow
def test_losses_on_eight_devices_equal_one():
    each, together = lines_of("-c", PROGRAM)
    for _, alone, found, error in (each, together):
        assert alone.keys() == {"importance", "z", "balance", "device_balance", "sequence_balance"}
        assert found == pytest.approx(alone, rel=1e-5)
        assert error <= 1e-5
    for name in ("balance", "device_balance"):  # over the whole batch the halves make up for each other
        assert together[1][name] < 0.95 * each[1][name]
    assert together[1]["sequence_balance"] == pytest.approx(each[1]["balance"], rel=1e-5)
