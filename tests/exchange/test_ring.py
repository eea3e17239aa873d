"""What goes round."""

import functools

import jax
import jax.numpy as jnp

from moejax.core.plans import ExpertChoice
from moejax.exchange.ring import Ring
from moejax.experts.mlp import MlpExperts
from moejax.sharding.mesh import MeshSpec
from tests.exchange.wire import sent


def test_bytes():
    # Tokens and plan hop three times over four devices, outputs four times, back to where they began.
    groups, tokens, dim, experts, slots = 8, 6, 16, 8, 3
    plan = ExpertChoice(jnp.zeros((groups, experts, slots), jnp.int32), jnp.ones((groups, experts, slots)))
    bank = MlpExperts(expert_dim=32)
    params = jax.eval_shape(functools.partial(bank.init, num_experts=experts, dim=dim), jax.random.key(0))
    with jax.sharding.use_abstract_mesh(MeshSpec(data=1, expert=4, fsdp=2).abstract(8)):
        found = sent(
            lambda plan, x, params: Ring().dispatch("gather", plan, x, params, bank.apply),
            plan, jnp.zeros((groups, tokens, dim)), params,
        )  # fmt: skip
    block = groups // 8
    assert found == {
        ("ppermute", "expert"): 3 * block * (4 * tokens * dim + 2 * 4 * experts * slots) + 4 * block * 4 * tokens * dim
    }
