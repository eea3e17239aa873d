"""The expert axis of whole trees: leaves know which of their arrays carry it.

Source: ours.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from moejax.linear.contract import is_leaf


def take_experts(params: Any, index: Sequence[int]) -> Any:
    """The bank whose expert i is expert index[i] of this one. Plain arrays [E ...] are picked alike; what is shared stays."""

    def take(node: Any) -> Any:
        if not is_leaf(node):
            return jnp.take(node, np.asarray(index, np.int32), axis=0)
        return node.take(index) if hasattr(node, "take") else take_arrays(node, index)

    return jax.tree.map(take, params, is_leaf=is_leaf)


def take_arrays(leaf: Any, index: Sequence[int]) -> Any:
    """`take_experts` for the fields of one leaf: what its own `take` begins with, where it has static numbers per expert."""
    return _over_fields(leaf, lambda field: take_experts(field, index))


def add_expert_axis(params: Any) -> Any:
    """A layer without experts as a bank of one: a leading axis of 1 on every array that has an expert axis in a bank."""
    return map_expert_arrays(params, lambda array: array[None])


def drop_expert_axis(params: Any) -> Any:
    """The inverse of `add_expert_axis`, for a bank of one expert: its first expert alone."""
    return map_expert_arrays(cleared(params), lambda array: array[0])


def cleared(params: Any) -> Any:
    """The same kernels without static numbers per expert (ranks, indices), which `shard_map` could not cut with the experts."""
    return jax.tree.map(
        lambda node: node.cleared() if hasattr(node, "cleared") else node,
        params,
        is_leaf=lambda n: hasattr(n, "cleared"),
    )


def shared_fields(leaf: Any) -> tuple[str, ...]:
    """The fields of a leaf without an expert axis; () for leaves that do not say."""
    return leaf.shared_fields() if hasattr(leaf, "shared_fields") else ()


def bank_size(leaf: Any) -> int | None:
    """How many experts a bank has: the size of the first axis of an array that carries one. None when there is none."""
    arrays = [
        a
        for name in array_fields(leaf)
        if name not in shared_fields(leaf)
        for a in jax.tree.leaves(getattr(leaf, name))
    ]
    return arrays[0].shape[0] if arrays else None


def array_fields(leaf: Any) -> tuple[str, ...]:
    """The names of the fields that hold arrays, or tuples or leaves of them."""
    return tuple(f.name for f in dataclasses.fields(leaf) if f.metadata.get("pytree_node", True))


def map_expert_arrays(params: Any, function: Callable[[Array], Array]) -> Any:
    """`function` of every array that carries the expert axis; what all experts share stays."""

    def over(node: Any) -> Any:
        return _over_fields(node, lambda field: map_expert_arrays(field, function)) if is_leaf(node) else function(node)

    return jax.tree.map(over, params, is_leaf=is_leaf)


def _over_fields(leaf: Any, function: Callable[[Any], Any]) -> Any:
    own = [name for name in array_fields(leaf) if name not in shared_fields(leaf)]
    return dataclasses.replace(leaf, **{name: function(getattr(leaf, name)) for name in own})
