"""Statistics of batches that lie over eight devices equal those of one."""

import pytest

from tests.child_programs import output_of

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from moejax.compress.collect import collect
from moejax.core.spec import build_method
from moejax.layers.moe import MoE

assert jax.device_count() == 8
layer = MoE(
    router=build_method("routing", {"name": "top_k", "num_experts": 4, "num_selected_experts": 2, "capacity_factor": 0.8}),
    experts=build_method("experts", {"name": "mlp", "expert_dim": 5}), group_size=8, dispatch="gather",
)
params, state = layer.init(jax.random.key(0), 6)
batches = [np.random.default_rng(seed).normal(size=(16, 8, 6)).astype(np.float32) for seed in (1, 2)]
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
over = [jax.device_put(batch, NamedSharding(mesh, P("data"))) for batch in batches]
whole = jax.device_put(params, NamedSharding(mesh, P()))

def found(params, batches):
    apply = lambda p, x: layer.apply(p, state, x).tokens
    loss = lambda p, x: jnp.sum(jnp.square(apply(p, x)))
    kinds = ("second_moment", "absolute", "output", "fisher", "kronecker")
    return collect(apply, params, batches, kinds, loss=loss, passes=2, chunk=8).statistics

one, many = found(params, batches), found(whole, over)
assert one.keys() == many.keys()
assert one["experts/up"].count.sum() > 100
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, many)
print("eight devices agree")
"""


@pytest.mark.slow
def test_sharded_batches_give_the_same_sums():
    assert "eight devices agree" in output_of("-c", PROGRAM)
