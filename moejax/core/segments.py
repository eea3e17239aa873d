"""Depth as segments: consecutive layers of one structure are one stacked tree, scanned; a single layer is just applied.

Names say the layers: `05` is layer 5 alone, `00-04` are layers 0 to 4 stacked along a leading axis L. A model initialises
runs of equal layers stacked, and applies whatever its parameters' names say: once layers differ, each stands alone.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core.errors import SpecError

_NAME = re.compile(r"(\d{2,})(?:-(\d{2,}))?")


@dataclasses.dataclass(frozen=True)
class Segment:
    """`length` consecutive layers that share `spec`, the first of them layer number `first`."""

    first: int
    length: int
    spec: Any

    @property
    def name(self) -> str:
        last = self.first + self.length - 1
        return f"{self.first:02d}" if self.length == 1 else f"{self.first:02d}-{last:02d}"

    @property
    def layers(self) -> range:
        return range(self.first, self.first + self.length)


def segments(specs: Sequence[Any]) -> tuple[Segment, ...]:
    """Runs of equal specs. Source: ours."""
    runs = []
    first = 0
    for spec, run in itertools.groupby(specs):
        length = len(list(run))
        runs.append(Segment(first, length, spec))
        first += length
    return tuple(runs)


def segments_named(names: Iterable[str], specs: Sequence[Any]) -> tuple[Segment, ...]:
    """The segments that `names` say, of layers with these specs, in the order of the layers.

    Raises SpecError when the names do not cover each layer once, or put layers of different specs together. Source: ours.
    """
    runs, covered = [], 0
    for name in sorted(names, key=_layers_of):
        first, last = _layers_of(name)
        if first != covered or not first <= last < len(specs):
            raise SpecError(f"segments {sorted(names)} do not cover the layers 00 to {len(specs) - 1:02d} once each.")
        if any(spec != specs[first] for spec in specs[first : last + 1]):
            raise SpecError(
                f"segment {name!r} stacks layers that are not alike; the model's are {_named(segments(specs))}."
            )
        runs.append(Segment(first, last - first + 1, specs[first]))
        covered = last + 1
    if covered != len(specs):
        raise SpecError(f"segments {sorted(names)} do not cover the layers 00 to {len(specs) - 1:02d} once each.")
    return tuple(runs)


def split_segments(tree: Any) -> Any:
    """Nested dicts in which each stacked segment has become its single layers: '00-02' becomes '00', '01' and '02'.

    Works for parameters and state alike; arrays are only sliced.
    """
    if not isinstance(tree, Mapping):
        return tree
    split: dict[str, Any] = {}
    for key, child in tree.items():
        found = _NAME.fullmatch(str(key))
        if found is None or found[2] is None:
            split[key] = split_segments(child)
            continue
        first, last = _layers_of(key)
        split |= {f"{first + i:02d}": layer for i, layer in enumerate(unstack(child, last - first + 1))}
    return split


def _layers_of(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise SpecError(f"{name!r} names no segment; names are such as '05' and '00-04'.")
    return int(found[1]), int(found[2] or found[1])


def _named(runs: Sequence[Segment]) -> str:
    return ", ".join(run.name for run in runs)


def stack(trees: Sequence[Any]) -> Any:
    """Trees of one structure -> one tree with a leading axis L."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: Any, length: int) -> list[Any]:
    """The inverse of `stack`."""
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(length)]


def apply_segment(
    layer: Callable[[Any, Any, Any], tuple[Any, Any]],
    segment: Segment,
    params: Any,
    carry: Any,
    inputs: Any,
    *,
    unroll: bool = False,
) -> tuple[Any, list[Any]]:
    """Runs `carry, out = layer(params, carry, input)` through a segment's layers; returns the carry and each layer's out.

    `params` is stacked (leading axis L) when the segment is longer than one; `inputs` is a list with one entry (such as
    state and key) per layer; `unroll=True` replaces the scan by a Python loop.
    """
    if segment.length == 1:
        carry, out = layer(params, carry, inputs[0])
        return carry, [out]
    if unroll:
        outs = []
        for layer_params, layer_input in zip(unstack(params, segment.length), inputs, strict=True):
            carry, out = layer(layer_params, carry, layer_input)
            outs.append(out)
        return carry, outs
    carry, stacked = jax.lax.scan(lambda c, xs: layer(xs[0], c, xs[1]), carry, (params, stack(inputs)))
    return carry, unstack(stacked, segment.length)
