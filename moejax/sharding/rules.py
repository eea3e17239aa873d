"""Logical axes -> mesh axes, and leaf names -> logical axes: partition specs for whole trees."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.tree import flatten, map_with_names, match_rules
from moejax.sharding.mesh import AXIS_NAMES, BATCH_AXES

# Logical axes of a leaf by its name, without the layer axis that stacked segments put in front. First match wins.
# A column-parallel kernel splits its outputs, the row-parallel one after it its inputs: one reduction per pair. Of a kernel
# u v it is the outer side that is split; arrays that a leaf's `shared_fields` names have no expert axis, and lose it here.
LEAF_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"experts/(up|gate)/(kernel|v|residual)$", ("experts", None, "hidden")),
    (r"experts/down/(kernel|u|residual)$", ("experts", "hidden", None)),
    (r"experts/(up|gate)/bias$|experts/(up|gate)_bias$", ("experts", "hidden")),
    (r"experts/", ("experts",)),
    (r"(mlp|feed_forward|shared)/(up|gate)/(kernel|v|residual)$", (None, "hidden")),
    (r"(mlp|feed_forward|shared)/down/(kernel|u|residual)$", ("hidden", None)),
    (r"attention/(qkv|query|key|value)/(kernel|v|residual)$", (None, "heads")),
    (r"attention/out/(kernel|u|residual)$", ("heads", None)),
    (r"attention/(query|key|value)_bias$", ("heads",)),
)


def leaf_axes_of(model: Any) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    """`LEAF_AXES`, after those that the model names for leaves of its own (`model.leaf_axes`), such as a table of tokens."""
    return (*getattr(model, "leaf_axes", ()), *LEAF_AXES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """The mesh axes over which each logical axis is split; () keeps it whole on every device. Source: ours."""

    batch: tuple[str, ...] = BATCH_AXES
    experts: tuple[str, ...] = ("expert",)
    hidden: tuple[str, ...] = ("model",)
    heads: tuple[str, ...] = ("model",)
    vocab: tuple[str, ...] = ("model",)
    width: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            axes = getattr(self, field.name)
            for axis in axes:
                if axis not in AXIS_NAMES:
                    raise SpecError(f"rules.{field.name}: {axis!r} is no mesh axis.{did_you_mean(axis, AXIS_NAMES)}")
            if len(set(axes)) != len(axes):
                raise SpecError(f"rules.{field.name}={axes!r} names a mesh axis twice.")

    def spec(self, *axes: str | None) -> PartitionSpec:
        """The partition spec of an array with these logical axes (None: whole).

        Raises SpecError for an unknown logical axis, or when two axes of one array claim the same mesh axis.
        """
        names = [field.name for field in dataclasses.fields(self)]
        entries: list[Any] = []
        owner: dict[str, str] = {}
        for axis in axes:
            if axis is not None and axis not in names:
                raise SpecError(f"{axis!r} is no logical axis.{did_you_mean(axis, names)}")
            mesh_axes = () if axis is None else getattr(self, axis)
            for mesh_axis in mesh_axes:
                if mesh_axis in owner:
                    raise SpecError(
                        f"logical axes {owner[mesh_axis]!r} and {axis!r} of one array both claim mesh axis "
                        f"{mesh_axis!r}; give one of them another mesh axis, or ()."
                    )
                owner[mesh_axis] = str(axis)
            entries.append(None if not mesh_axes else mesh_axes[0] if len(mesh_axes) == 1 else mesh_axes)
        return _trimmed(entries)


def param_specs(params: Any, rules: Rules, *, leaf_axes: Sequence[tuple[str, Any]] = LEAF_AXES) -> Any:
    """A tree of PartitionSpecs for parameters (arrays or shapes), by leaf name; leaves without a rule are replicated.

    A leading axis L of a stacked segment is never split, and what all experts of a leaf share not over them. Raises SpecError when a leaf has fewer axes than its rule.
    """
    present = [(pattern, axes) for pattern, axes in leaf_axes if _found(pattern, params)]
    named = match_rules(present, jax.tree.map(lambda _: 0, params), default=(), what="sharding")
    axes_of = _axes_by_name(named, params)
    for name in _shared_names(params):
        axes_of[name] = tuple(axis for axis in axes_of[name] if axis != "experts")

    def spec(name: str, leaf: Any) -> PartitionSpec:
        axes = axes_of[name]
        if len(axes) > leaf.ndim:
            raise SpecError(f"sharding: {name} has {leaf.ndim} axes, its rule {axes} names {len(axes)}.")
        stacked = bool(axes) and _is_stacked(name)
        return rules.spec(*((None,) if stacked else ()), *axes)

    return map_with_names(spec, params)


def split_fully(tree: Any, specs: Any, size: int, *, axis: str = "fsdp") -> Any:
    """The specs with every leaf split over mesh axis `axis` of `size` devices too, so that each keeps a part of it.

    Split is the largest array axis that no mesh axis splits yet and `size` divides, the last of equals, but never the layer
    axis of a stacked segment; a leaf without one stays whole.
    Source: Rajbhandari et al. 2020, "ZeRO", section 5 (stage 1 where `tree` is optimiser state, stage 3 for parameters).
    """
    if size == 1:
        return specs

    def split(name: str, leaf: Any, spec: PartitionSpec) -> PartitionSpec:
        entries = [*spec, *(None,) * (leaf.ndim - len(spec))]
        if axis in spec:
            return spec
        free = [i for i in range(int(_is_stacked(name)), leaf.ndim) if entries[i] is None and leaf.shape[i] % size == 0]
        if not free or leaf.size < size:
            return spec
        entries[max(free, key=lambda i: (leaf.shape[i], i))] = axis
        return _trimmed(entries)

    return map_with_names(split, tree, specs)


def specs_like(tree: Any, params: Any, specs: Any) -> Any:
    """Specs for a tree that mirrors parameters, such as optimiser state or an average.

    A leaf whose name ends with a parameter's name and that has its shape takes its spec; every other leaf (counters,
    factored moments) is replicated.
    """
    shapes = flatten(params)
    known = dict(zip(shapes, jax.tree.leaves(specs, is_leaf=lambda s: isinstance(s, PartitionSpec)), strict=True))

    def spec(name: str, leaf: Any) -> PartitionSpec:
        parts = name.split("/")
        for start in range(len(parts)):
            suffix = "/".join(parts[start:])
            if suffix in known and tuple(shapes[suffix].shape) == tuple(leaf.shape):
                return known[suffix]
        return PartitionSpec()

    return map_with_names(spec, tree)


def shardings(tree: Any, specs: Any, mesh: Mesh | AbstractMesh) -> Any:
    """NamedShardings of a tree. Raises SpecError when a mesh axis does not divide the array axis it splits."""

    def sharding(name: str, leaf: Any, spec: PartitionSpec) -> NamedSharding:
        for size, entry in zip(leaf.shape, spec, strict=False):
            mesh_axes = () if entry is None else (entry,) if isinstance(entry, str) else entry
            parts = math.prod(mesh.shape[axis] for axis in mesh_axes)
            if size % parts:
                raise SpecError(
                    f"sharding: {name} has an axis of {size}, which {parts} devices along {mesh_axes} do not divide; "
                    f"choose mesh sizes that divide {size}."
                )
        return NamedSharding(mesh, spec)

    return map_with_names(sharding, tree, specs)


def _trimmed(entries: list[Any]) -> PartitionSpec:
    """The spec without the whole axes at its end."""
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _axes_by_name(named: Any, params: Any) -> dict[str, tuple[str | None, ...]]:
    """Leaf name -> its logical axes, from a tree like `params` with a tuple of axes in the place of every array."""
    axes_of: dict[str, tuple[str | None, ...]] = {}
    map_with_names(lambda name, _, axes: axes_of.update({name: axes}), params, named)
    return axes_of


def _shared_names(tree: Any, prefix: str = "") -> list[str]:
    """Names of the arrays without an expert axis: those of the fields that weight leaves call shared."""
    if hasattr(tree, "shared_fields"):
        shared = tree.shared_fields()
        parts = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
        whole = [f"{prefix}{name}" for name in flatten({key: parts[key] for key in shared})]
        own = {key: part for key, part in parts.items() if key not in shared}
        return whole + [name for key, part in own.items() for name in _shared_names(part, f"{prefix}{key}/")]
    found = []
    for path, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda n: hasattr(n, "shared_fields"))[0]:
        if hasattr(node, "shared_fields"):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found += _shared_names(node, f"{prefix}{name}/" if name else prefix)
    return found


def _found(pattern: str, tree: Any) -> bool:
    return any(re.search(pattern, name) for name in flatten(tree))


def _is_stacked(name: str) -> bool:
    return bool(re.search(r"(^|/)\d+-\d+(by\d+)?/", name))
