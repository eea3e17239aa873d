"""From arrays over the whole mesh to each device's own part of them, and back.

Source: ours, over `jax.shard_map`.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.core.plans import Plan
from moejax.core.tree import flatten, map_with_names
from moejax.dispatch.buffers import Apply
from moejax.exchange.contract import Devices
from moejax.linear.expert_axis import cleared
from moejax.sharding.mesh import BATCH_AXES
from moejax.sharding.rules import Rules, param_specs, shardings

Local = Callable[[Plan, Float[Array, "G S D"], Any, Apply, Devices], Float[Array, "G S F"]]


def mesh_in_force() -> AbstractMesh | None:
    """The mesh of `jax.set_mesh`, where it has more than one device and its axes are not taken yet; else None."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or any(kind == jax.sharding.AxisType.Manual for kind in mesh.axis_types):
        return None
    return mesh


def on_devices(
    local: Local, plan: Plan, x: Float[Array, "G S D"], params: Any, apply: Apply, *, mesh: AbstractMesh
) -> Float[Array, "G S F"]:
    """`local(plan, x, params, apply, devices)` on every device of the mesh with its own groups and experts.

    Raises SpecError where the devices do not divide the groups, the expert axis not the experts, or `model` not the width.
    """
    params = cleared(params)
    specs, splits_hidden = bank_specs(params, mesh)
    devices = Devices(mesh.shape["expert"], mesh.shape["model"], splits_hidden)
    _check(plan, x, devices, math.prod(mesh.shape[axis] for axis in BATCH_AXES))
    shardings(params, specs, mesh)  # says what does not divide
    by_group = PartitionSpec(BATCH_AXES)
    plans = jax.tree.map(lambda _: by_group, plan)
    run = jax.shard_map(
        lambda plan, x, params: local(plan, x, params, apply, devices),
        mesh=mesh,
        in_specs=(plans, by_group, specs),
        out_specs=by_group,
        check_vma=False,  # what all-gathers along `model` give is equal there, which the check cannot see
    )
    return run(plan, x, params)


def own_key(key: PRNGKeyArray | None) -> PRNGKeyArray | None:
    """Inside of `on_devices` another key on every device along the batch axes, the same along `model`; elsewhere the key itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if key is None or mesh.empty or jax.sharding.AxisType.Manual not in mesh.axis_types:
        return key
    return jax.random.fold_in(key, jax.lax.axis_index(BATCH_AXES))


def bank_specs(params: Any, mesh: AbstractMesh) -> tuple[Any, bool]:
    """How a bank lies over the devices, and whether its hidden width is split: over `expert`, over `model` where all kernels are."""
    specs = param_specs({"experts": params}, Rules())["experts"]
    splits_hidden = mesh.shape["model"] > 1 and hidden_is_split(specs)
    if not splits_hidden:
        specs = map_with_names(lambda _, spec: _without(spec, "model"), specs)
    return specs, splits_hidden


def hidden_is_split(specs: Any) -> bool:
    """Whether the hidden width is split over `model` as a whole: 'up', 'down' and where they are 'gate' and the hidden biases.

    False for a bank with parameters that `apply` uses beside those: what they do to a part of the width is not known here.
    """
    split: dict[str, bool] = {}
    for name, spec in flatten(specs).items():
        part = name.partition("/")[0]
        split[part] = split.get(part, False) or "model" in spec
    hidden = {"up", "gate", "down", "up_bias", "gate_bias"}
    known = split.keys() <= hidden | {"down_bias", "descend", "ascend"}
    return known and {"up", "down"} <= split.keys() and all(split[name] for name in hidden & split.keys())


def own_part(x: Float[Array, "... D"], devices: Devices) -> Float[Array, "... _"]:
    """The own part of the width: along `model` all hold the same tokens, and each sends another part of them."""
    if devices.model == 1:
        return x
    width = x.shape[-1] // devices.model
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index("model") * width, width, x.ndim - 1)


def whole(x: Float[Array, "... _"], devices: Devices) -> Float[Array, "... D"]:
    """The full width from the parts of all devices along `model`."""
    return x if devices.model == 1 else jax.lax.all_gather(x, "model", axis=x.ndim - 1, tiled=True)


def computed(apply: Apply, params: Any, layout: Layout, devices: Devices) -> Layout:
    """The layout through the own experts, of the outputs only the own part of the width."""
    if not devices.splits_hidden:
        out = apply(params, layout)
        return dataclasses.replace(out, tokens=own_part(out.tokens, devices))
    out = apply(_output_biases_once(params), layout)
    tokens = jax.lax.psum_scatter(out.tokens, "model", scatter_dimension=out.tokens.ndim - 1, tiled=True)
    return dataclasses.replace(out, tokens=tokens)


def _output_biases_once(params: Any) -> Any:
    """Biases of the outputs are added by the first device along `model` alone, as the parts are summed."""
    first = jax.lax.axis_index("model") == 0

    def pick(name: str, array: Array) -> Array:
        return jnp.where(first, array, jnp.zeros_like(array)) if re.search(r"^down(_|/)bias$", name) else array

    return map_with_names(pick, params)


def _without(spec: PartitionSpec, axis: str) -> PartitionSpec:
    return PartitionSpec(*(None if entry == axis else entry for entry in spec))


def _check(plan: Plan, x: Float[Array, "G S D"], devices: Devices, parts: int) -> None:
    if x.shape[0] % parts:
        raise SpecError(
            f"{x.shape[0]} groups of tokens cannot be split over the {parts} devices along {', '.join(BATCH_AXES)}; choose a "
            f"batch (or a group_size) that gives a multiple of {parts} groups."
        )
    if plan.num_experts % devices.size:
        raise SpecError(
            f"mesh expert={devices.size} does not divide the {plan.num_experts} experts; choose a divisor of {plan.num_experts}."
        )
    if x.shape[-1] % devices.model:
        raise SpecError(
            f"mesh model={devices.model} does not divide the width {x.shape[-1]} in which tokens travel; choose a divisor."
        )
