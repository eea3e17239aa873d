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
    picked = tuple(int(i) for i in index)
    return jax.tree.map(lambda node: _take(node, picked), params, is_leaf=is_leaf)


def add_expert_axis(params: Any) -> Any:
    """A layer without experts as a bank of one: a leading axis of 1 on every array that has an expert axis in a bank."""
    return _over_arrays(params, lambda array: array[None])


def drop_expert_axis(params: Any) -> Any:
    """The inverse of `add_expert_axis`, for a bank of one expert: its first expert alone."""
    return _over_arrays(cleared(params), lambda array: array[0])


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


def take_arrays(node: Any, index: Sequence[int]) -> Any:
    """`take_experts` for the arrays of one leaf alone: static numbers per expert stay as they are."""
    picked = np.asarray(index, np.int32)
    return _over_arrays(node, lambda array: jnp.take(array, picked, axis=0))


def _take(node: Any, index: tuple[int, ...]) -> Any:
    if hasattr(node, "take"):
        return node.take(index)
    return take_arrays(node, index)


def _over_arrays(params: Any, function: Callable[[Array], Array]) -> Any:
    def over(node: Any) -> Any:
        if not is_leaf(node):
            return function(node)
        shared = shared_fields(node)
        fields = [f.name for f in dataclasses.fields(node) if f.metadata.get("pytree_node", True)]
        changed = {name: jax.tree.map(function, getattr(node, name)) for name in fields if name not in shared}
        return dataclasses.replace(node, **changed)

    return jax.tree.map(over, params, is_leaf=is_leaf)
