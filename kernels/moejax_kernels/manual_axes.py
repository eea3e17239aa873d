"""Operands inside `jax.shard_map`: which mesh axes a value varies over is part of its type, and types must agree.

The carry of a loop starts from zeros, which vary over nothing, and gradients of weights that are the same everywhere must be
summed over the mesh. Casting all operands to vary alike, before a `custom_vjp`, serves both: the cast's transpose is the sum.
Source: ours.
"""

from typing import Any

import jax


def vary_alike(operands: Any) -> Any:
    """The arrays of a tree, each cast to vary over every mesh axis that one of them varies over. Outside shard_map: as they are."""
    axes = frozenset().union(*(varying_axes(leaf) for leaf in jax.tree.leaves(operands)))
    return jax.tree.map(lambda leaf: _cast(leaf, axes), operands)


def vary_like(value: Any, like: Any) -> Any:
    """The arrays of a tree, cast to vary over the mesh axes that the array `like` varies over."""
    axes = varying_axes(like)
    return jax.tree.map(lambda leaf: _cast(leaf, axes), value)


def varying_axes(x: Any) -> frozenset[str]:
    """The mesh axes of the surrounding shard_map that x varies over; none outside."""
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def _cast(x: Any, axes: frozenset[str]) -> Any:
    missing = tuple(sorted(axes - varying_axes(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x
