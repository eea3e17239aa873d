"""Parameters with observers in the place of chosen weights.

Source: ours.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moejax.compress.observe import INPUT_FIELDS, OUTPUT_FIELDS, Observed, ObservedRouter
from moejax.core.errors import SpecError, did_you_mean
from moejax.linear.contract import is_leaf

Slots = dict[str, dict[str, Array]]  # name of the weight -> field -> zeros


def weights_in(params: Any, only: str | None, *, arrays: bool = False) -> dict[str, tuple[int, ...]]:
    """Name -> shape [... D F] of every leaf in whose name the pattern is found, and of plain `arrays` if they count, too.

    Raises SpecError when there is none.
    """
    shapes = {name: _kernel_shape(node) for name, node in _weights(params, "", arrays)}
    try:
        found = {name: shape for name, shape in shapes.items() if only is None or re.search(only, name)}
    except re.error as error:
        raise SpecError(f"only={only!r} is no regular expression ({error}).") from error
    if not found:
        raise SpecError(f"only={only!r} is found in the name of no weight.{did_you_mean(str(only), shapes)}")
    return found


def make_slots(params: Any, weights: Mapping[str, tuple[int, ...]], fields: tuple[str, ...], *, num_rows: int) -> Slots:
    """Zeros for every weight, and for the routers beside them; {} when no field comes from a forward pass."""
    wanted = [field for field in fields if field in (*INPUT_FIELDS, *OUTPUT_FIELDS)]
    if not wanted:
        return {}
    slots = {name: _zeros(shape, [*wanted, "calls"], num_rows) for name, shape in weights.items()}
    read = [field for field in wanted if field in INPUT_FIELDS]
    for name, shape in _routers(params, weights).items():
        slots[name] = _zeros(shape, [*read, "calls"], num_rows)
    return slots


def observed(params: Any, slots: Slots) -> Any:
    """`params` with observers. Leaves beside an observed one are observed without slots, so that padding stays known."""
    banks = {name.rpartition("/")[0] for name in slots}
    return _observed(params, slots, banks, "")


def _observed(node: Any, slots: Slots, banks: set[str], name: str) -> Any:
    if is_leaf(node):
        return Observed(node, slots.get(name, {})) if name.rpartition("/")[0] in banks else node
    if not isinstance(node, Mapping):
        return node
    if name in slots:
        return ObservedRouter(node, slots[name])
    return {key: _observed(child, slots, banks, _join(name, key)) for key, child in node.items()}


def _weights(node: Any, name: str, arrays: bool) -> list[tuple[str, Any]]:
    if is_leaf(node) or (arrays and getattr(node, "ndim", 0) in (2, 3)):
        return [(name, node)]
    if not isinstance(node, Mapping):
        return []
    return [found for key, child in node.items() for found in _weights(child, _join(name, key), arrays)]


def _kernel_shape(node: Any) -> tuple[int, ...]:
    return jax.eval_shape(node.materialise).shape if is_leaf(node) else node.shape


def _routers(params: Any, weights: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Name -> [... D 1] of the router beside every bank 'experts' that holds one of the weights."""
    found = {}
    for name, shape in weights.items():
        layer, _, last = name.rpartition("/")[0].rpartition("/")
        router = _join(layer, "router")
        if last != "experts" or router in found:
            continue
        node = _node(params, router)
        if isinstance(node, Mapping):
            stacked = shape[:-3]
            kernels = [leaf for leaf in jax.tree.leaves(node) if leaf.ndim > len(stacked) + 1]
            found[router] = (*stacked, kernels[0].shape[len(stacked)] if kernels else shape[-2], 1)
    return found


def _node(tree: Any, name: str) -> Any:
    for key in name.split("/"):
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _zeros(shape: tuple[int, ...], fields: list[str], num_rows: int) -> dict[str, Array]:
    *leading, depth, width = shape
    sizes: dict[str, tuple[int, ...]] = {
        "count": (),
        "calls": (),
        "second_moment": (depth, depth),
        "absolute": (depth,),
        "rows": (num_rows, depth),
        "output_sum": (width,),
        "output_square": (width,),
    }
    return {field: jnp.zeros((*leading, *sizes[field]), jnp.float32) for field in fields}


def _join(name: str, key: Any) -> str:
    return f"{name}/{key}" if name else str(key)
