"""Depth as segments: layers of one structure are one stacked tree, scanned; a single layer is just applied.

Names say the layers: `05` is layer 5 alone, `00-04` are layers 0 to 4 stacked along a leading axis L, `00-06by2` are layers
0, 2, 4 and 6. Where kinds of layers take turns (dense, MoE, dense, MoE ...), each kind is a segment, and one scan runs them in
turn. A model initialises such layers stacked, and applies whatever its parameters' names say: once layers differ, each
stands alone.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from moejax.core.errors import SpecError

_NAME = re.compile(r"(\d{2,})(?:-(\d{2,})(?:by(\d+))?)?")


@dataclasses.dataclass(frozen=True)
class Segment:
    """`length` layers that share `spec`, every `stride`-th from layer number `first` on."""

    first: int
    length: int
    spec: Any
    stride: int = 1

    @property
    def name(self) -> str:
        if self.length == 1:
            return f"{self.first:02d}"
        return f"{self.first:02d}-{self.layers[-1]:02d}" + (f"by{self.stride}" if self.stride > 1 else "")

    @property
    def layers(self) -> range:
        return range(self.first, self.first + self.length * self.stride, self.stride)


def segments(specs: Sequence[Any]) -> tuple[Segment, ...]:
    """Runs of equal specs, and patterns of specs that repeat: from each layer on what covers most layers, the shortest of equals.

    Source: ours.
    """
    runs: list[Segment] = []
    first = 0
    while first < len(specs):
        rest = specs[first:]
        repeating = [(period, times) for period in range(1, len(rest) // 2 + 1) if (times := _times(rest, period)) > 1]
        period, times = max(repeating, key=lambda found: (found[0] * found[1], -found[0]), default=(1, 1))
        runs += [Segment(first + i, times, rest[i], period) for i in range(period)]
        first += period * times
    return tuple(runs)


def _times(specs: Sequence[Any], period: int) -> int:
    """How often the first `period` specs stand behind each other."""
    pattern, times = list(specs[:period]), 1
    while list(specs[times * period : (times + 1) * period]) == pattern:
        times += 1
    return times


def turns(runs: Sequence[Segment]) -> tuple[tuple[Segment, ...], ...]:
    """The segments in the order in which they run, those together whose layers take turns."""
    found: list[tuple[Segment, ...]] = []
    ordered = list(runs)
    while ordered:
        stride = ordered[0].stride
        found.append(tuple(ordered[:stride]))
        ordered = ordered[stride:]
    return tuple(found)


def segments_named(names: Iterable[str], specs: Sequence[Any]) -> tuple[Segment, ...]:
    """The segments that `names` say, of layers with these specs, in the order of the layers.

    Raises SpecError when the names do not cover each layer once, or put layers of different specs together. Source: ours.
    """
    runs = []
    for name in sorted(names, key=lambda name: _layers_of(name).start):
        layers = _layers_of(name)
        own = specs[layers.start : layers.stop : layers.step]
        if any(spec != own[0] for spec in own):
            raise SpecError(
                f"segment {name!r} stacks layers that are not alike; the model's are {_named(segments(specs))}."
            )
        runs.append(Segment(layers.start, len(layers), own[0] if own else None, layers.step))
    if not _in_turn(runs, len(specs)):
        raise SpecError(f"segments {sorted(names)} do not cover the layers 00 to {len(specs) - 1:02d} once each.")
    return tuple(runs)


def _in_turn(runs: Sequence[Segment], depth: int) -> bool:
    """Whether each layer belongs to one segment, and segments with a stride stand in whole turns."""
    covered = 0
    for group in turns(runs):
        first = group[0]
        starts = [segment.first for segment in group]
        alike = all((segment.length, segment.stride) == (first.length, first.stride) for segment in group)
        if not alike or starts != list(range(covered, covered + first.stride)):
            return False
        covered += first.stride * first.length
    return covered == depth


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
        layers = _layers_of(key)
        split |= {f"{i:02d}": layer for i, layer in zip(layers, unstack(child, len(layers)), strict=True)}
    return split


def layer_names(name: str) -> list[str]:
    """The leaf's name in each layer of its segment: 'blocks/00-01/norm/scale' -> 'blocks/00/norm/scale', 'blocks/01/...'.

    A leaf that is not stacked has its own name alone. With it a tree that `split_segments` took apart is stacked again.
    """
    parts = name.split("/")
    for i, part in enumerate(parts):
        found = _NAME.fullmatch(part)
        if found is not None and found[2] is not None:
            return ["/".join([*parts[:i], f"{layer:02d}", *parts[i + 1 :]]) for layer in _layers_of(part)]
    return [name]


def _layers_of(name: str) -> range:
    found = _NAME.fullmatch(name)
    if found is None or found[3] == "0":
        raise SpecError(f"{name!r} names no segment; names are such as '05', '00-04' and '00-06by2'.")
    return range(int(found[1]), int(found[2] or found[1]) + 1, int(found[3] or 1))


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
    carry, outs = apply_turns([layer], segment.length, [params], carry, [inputs], unroll=unroll)
    return carry, outs[0]


def apply_turns(
    layers: Sequence[Callable[[Any, Any, Any], tuple[Any, Any]]],
    length: int,
    params: Sequence[Any],
    carry: Any,
    inputs: Sequence[list[Any]],
    *,
    unroll: bool = False,
) -> tuple[Any, list[list[Any]]]:
    """`apply_segment` of segments of `length` layers each that take turns: layers, params and inputs have an entry for each.

    Returns the carry and, for each segment, each layer's out.
    """
    if length == 1 or unroll:
        trees = [[tree] if length == 1 else unstack(tree, length) for tree in params]
        outs: list[list[Any]] = [[] for _ in layers]
        for i in range(length):
            for j, layer in enumerate(layers):
                carry, out = layer(trees[j][i], carry, inputs[j][i])
                outs[j].append(out)
        return carry, outs

    def turn(carry: Any, given: Any) -> tuple[Any, list[Any]]:
        found = []
        for layer, tree, own in zip(layers, *given, strict=True):
            carry, out = layer(tree, carry, own)
            found.append(out)
        return carry, found

    carry, stacked = jax.lax.scan(turn, carry, (list(params), [stack(own) for own in inputs]))
    return carry, [unstack(tree, length) for tree in stacked]
