"""Experts renumbered, and with that moved to other devices: the model computes what it computed.

Source: ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.tree import map_with_names
from moejax.linear.expert_axis import take_experts

# Leaves of routers and their state: the axis of the experts, None where there is none. 'table' holds numbers of experts.
EXPERT_AXES = {
    "kernel": 1,
    "noise_kernel": 1,
    "log_scale": 1,
    "mu": 1,
    "bias": 0,
    "scale": None,
    "log_temperature": None,
}


def reorder_layer(params: Mapping[str, Any], state: Any, order: Sequence[int]) -> tuple[dict[str, Any], Any]:
    """Parameters and router state of an MoE layer whose expert i is expert order[i] of this one; shared experts stay.

    Routers that know fixed groups of experts by their numbers (nodes, intervals of the time, turns) compute something else afterwards;
    of those, 'bi_level' is refused. Raises SpecError for it, for an unknown leaf, and for an order that is no permutation.
    """
    if sorted(order) != list(range(len(order))):
        raise SpecError(f"order={list(order)} is no permutation of 0 to {len(order) - 1}.")
    if "node_kernel" in params["router"]:
        raise SpecError("experts of 'bi_level' belong to their nodes; they cannot be reordered.")
    router = map_with_names(lambda name, leaf: _taken(name, leaf, order), params["router"])
    moved = {"router": router, "experts": take_experts(params["experts"], order)}
    return dict(params) | moved, map_with_names(lambda name, leaf: _taken(name, leaf, order), state)


def reorder_blocks(
    params: Mapping[str, Any], state: Mapping[str, Any], orders: Mapping[int, Sequence[int]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's 'blocks' and their state with the experts of layer i in the order orders[i]; each layer stands alone afterwards.

    Raises SpecError as `reorder_layer`, and for a layer without experts.
    """
    new_params, new_state = dict(split_segments(params)), dict(split_segments(state))
    for layer, order in orders.items():
        name = f"{layer:02d}"
        if name not in new_params or "moe" not in new_params[name]:
            raise SpecError(f"layer {layer} has no experts to reorder.")
        moe, new_state[name] = reorder_layer(new_params[name]["moe"], new_state[name], order)
        new_params[name] = dict(new_params[name]) | {"moe": moe}
    return new_params, new_state


def _taken(name: str, leaf: Array, order: Sequence[int]) -> Array:
    last = name.rpartition("/")[2]
    if last == "table":
        return jnp.asarray(np.argsort(np.asarray(order)), leaf.dtype)[leaf]
    if last not in EXPERT_AXES:
        raise SpecError(f"router leaf {name!r} is unknown: it is not said which of its axes is that of the experts.")
    axis = EXPERT_AXES[last]
    return leaf if axis is None else jnp.take(leaf, np.asarray(order, np.int32), axis=axis)


def replicated_first(load: Sequence[float | int]) -> list[int]:
    """Experts by falling load: with each layer so renumbered, one table of copies fits all layers."""
    return [int(expert) for expert in np.argsort(-np.asarray(load, np.float64), kind="stable")]
