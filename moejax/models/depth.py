"""The blocks of a model over its depth: initialised in segments, applied by scan, what they say gathered by layer.

Source: ours.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.outputs import LayerOutput
from moejax.core.rng import maybe_named, named
from moejax.core.segments import apply_segment, segments, segments_named, stack, unstack
from moejax.sharding.constraints import over_batch

ApplyBlock = Callable[..., LayerOutput]
"""(block, params, state, x, key, extra) -> LayerOutput; `extra` is the layer's own entry of `extras`."""


class Blocks(NamedTuple):
    """What all blocks return together.

    tokens: of the last. state: by segment. losses: each router loss, the mean over the layers that have it.
    metrics: 'block_05/load' ... plans: 'block_05' -> Plan of every MoE layer, empty unless asked for.
    """

    tokens: Float[Array, "B T D"]
    state: dict[str, Any]
    losses: dict[str, Float[Array, ""]]
    metrics: dict[str, Float[Array, "..."]]
    plans: dict[str, Any]


def init_blocks(blocks: Sequence[Any], key: PRNGKeyArray, dim: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and state by segment; layer i draws from the stream 'block_i' of `key`, whatever its neighbours are."""
    params, state = {}, {}
    for segment in segments(blocks):
        keys = [named(key, f"block_{i:02d}") for i in segment.layers]
        init = functools.partial(segment.spec.init, dim=dim)
        # The values of layer by layer calls, but one program for all.
        tree = init(keys[0]) if segment.length == 1 else jax.vmap(init)(jnp.stack(keys))
        params[segment.name], state[segment.name] = tree
    return params, state


def apply_blocks(
    blocks: Sequence[Any],
    params: dict[str, Any],
    state: dict[str, Any],
    x: Float[Array, "B T D"],
    apply: ApplyBlock,
    *,
    extras: Sequence[Any] | None = None,
    key: PRNGKeyArray | None = None,
    remat: bool = False,
    scan: bool = True,
    return_plans: bool = False,
) -> Blocks:
    """Tokens through every block. extras: one entry per layer (numbers that differ by layer), None for none.

    remat: recompute blocks in the backward pass. scan: stacked segments run as one scan, else unrolled.
    """
    extras = [None] * len(blocks) if extras is None else extras
    beside: dict[str, _Beside] = {}
    new_state: dict[str, Any] = {}
    for segment in segments_named(params, blocks):
        layer: Callable[..., Any] = functools.partial(_apply_block, segment.spec, apply, return_plans)
        alone, name = segment.length == 1, segment.name
        if remat:
            layer = jax.checkpoint(layer, prevent_cse=alone or not scan)
        states = [state[name]] if alone else unstack(state[name], segment.length)
        keys = [maybe_named(key, f"block_{i:02d}") for i in segment.layers]
        inputs = list(zip(states, keys, [extras[i] for i in segment.layers], strict=True))
        x, outs = apply_segment(layer, segment, params[name], x, inputs, unroll=not scan)
        new_state[name] = outs[0].state if alone else stack([out.state for out in outs])
        beside |= {f"block_{i:02d}": out for i, out in zip(segment.layers, outs, strict=True)}
    return _gathered(x, new_state, beside)


class _Beside(NamedTuple):
    """What a block returns beside its tokens."""

    state: Any
    losses: dict[str, Float[Array, ""]]
    metrics: dict[str, Float[Array, "..."]]
    plan: Any


def _apply_block(
    block: Any, apply: ApplyBlock, return_plans: bool, params: Any, x: Float[Array, "B T D"], inputs: Any
) -> tuple[Float[Array, "B T D"], _Beside]:
    state, key, extra = inputs
    out = apply(block, params, state, over_batch(x), key, extra)
    return over_batch(out.tokens), _Beside(out.state, out.losses, out.metrics, out.plan if return_plans else None)


def _gathered(x: Float[Array, "B T D"], state: dict[str, Any], layers: dict[str, _Beside]) -> Blocks:
    names = sorted({name for layer in layers.values() for name in layer.losses})
    return Blocks(
        tokens=x,
        state=state,
        losses={name: _mean([out.losses[name] for out in layers.values() if name in out.losses]) for name in names},
        metrics={f"{block}/{name}": value for block, out in layers.items() for name, value in out.metrics.items()},
        plans={block: out.plan for block, out in layers.items() if out.plan is not None},
    )


def _mean(values: list[Float[Array, ""]]) -> Float[Array, ""]:
    return sum(values[1:], values[0]) / jnp.asarray(len(values), jnp.float32)
