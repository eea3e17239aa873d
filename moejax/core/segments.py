"""Depth as segments: consecutive layers of one structure are one stacked tree, scanned; a single layer is just applied.

Names say the layers: `05` is layer 5 alone, `00-04` are layers 0 to 4 stacked along a leading axis L.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


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
