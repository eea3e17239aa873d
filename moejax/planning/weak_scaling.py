"""Work of one device in a compiled training step, as devices are added and each keeps its share of tokens and experts.

Source: ours; weak scaling as in Gustafson 1988.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from moejax.planning.collectives import collectives
from moejax.planning.products import products
from moejax.sharding.mesh import BATCH_AXES, MeshSpec
from moejax.sharding.rules import Rules, param_specs, shardings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Of one device. flops: of products; memory: bytes of arguments and temporaries; touched: bytes that operations read and
    write, by the compiler's count; exchanged: bytes of the arrays that it hands to all-to-alls; wire: bytes of these that leave
    it, (n - 1) / n of what n devices exchange; reduced: bytes that it sends to sum gradients.
    """

    devices: int
    flops: float
    memory: float
    touched: float
    exchanged: float
    wire: float
    reduced: float


def work(devices: list[jax.Device], layer: Any, *, tokens: int, dim: int) -> Work:
    """Of the gradient of one MoE layer on `devices`, all along `expert`, with a group of `tokens` tokens on each.

    Compiled, not run: the devices may be chips that are not there. Raises SpecError as the layer and the mesh.
    """
    mesh = MeshSpec(data=1, expert=len(devices)).build(devices)
    params, state = jax.eval_shape(lambda key: layer.init(key, dim), jax.random.key(0))
    placed = shardings(params, param_specs({"moe": params}, Rules())["moe"], mesh)
    batch = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    x = jax.ShapeDtypeStruct((len(devices), tokens, dim), "float32", sharding=batch)

    def loss(params: Any, x: Any, state: Any) -> Any:
        out = layer.apply(params, state, x)
        return sum(out.losses.values(), jnp.sum(jnp.square(out.tokens)))

    held = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), params, placed
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        run = jax.jit(jax.grad(loss, argnums=(0, 1)), out_shardings=(placed, batch))
        compiled = run.lower(held, x, state).compile()
    text = str(compiled.as_text())
    found = collectives(text)
    swaps = [one for one in found if one.kind == "all-to-all"]
    costs: Any = compiled.cost_analysis()
    memory: Any = compiled.memory_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    return Work(
        devices=len(devices),
        flops=products(text).dense,
        memory=float(memory.argument_size_in_bytes + memory.temp_size_in_bytes),
        touched=float((costs or {}).get("bytes accessed", 0)),
        exchanged=float(sum(one.size * one.times for one in swaps)),
        wire=sum(one.sent for one in swaps),
        reduced=sum(one.sent for one in found if one.kind != "all-to-all"),
    )
