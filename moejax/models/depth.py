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
from moejax.core.segments import Segment, apply_turns, segments, segments_named, stack, turns, unstack
from moejax.models.remat import Remat, rematerialised
from moejax.sharding.constraints import over_batch

ApplyBlock = Callable[..., LayerOutput]
"""(block, params, state, x, key, extra) -> LayerOutput; `extra` is the layer's own entry of `extras`. Blocks with `reads_shortcut`
also get shortcut=..., the previous block's tokens before its mixer."""


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
    remat: Remat = "none",
    scan: bool = True,
    return_plans: bool = False,
) -> Blocks:
    """Tokens through every block. extras: one entry per layer (numbers that differ by layer), None for none.

    remat: what the backward pass recomputes (models/remat.py). scan: stacked segments run as one scan, else unrolled.
    """
    extras = [None] * len(blocks) if extras is None else extras
    carry = (x, x) if any(reads_shortcut(block) for block in blocks) else (x, None)
    beside: dict[str, _Beside] = {}
    new_state: dict[str, Any] = {}

    def layer(segment: Segment) -> Callable[..., Any]:
        alone = segment.length == 1 or not scan
        return rematerialised(functools.partial(_apply_block, segment.spec, apply, return_plans), remat, alone=alone)

    def inputs(segment: Segment) -> list[Any]:
        own = state[segment.name]
        states = [own] if segment.length == 1 else unstack(own, segment.length)
        keys = [maybe_named(key, f"block_{i:02d}") for i in segment.layers]
        return list(zip(states, keys, [extras[i] for i in segment.layers], strict=True))

    for group in turns(segments_named(params, blocks)):
        length, trees = group[0].length, [params[segment.name] for segment in group]
        layers, given = [layer(segment) for segment in group], [inputs(segment) for segment in group]
        carry, found = apply_turns(layers, length, trees, carry, given, unroll=not scan)
        for segment, outs in zip(group, found, strict=True):
            new_state[segment.name] = outs[0].state if length == 1 else stack([out.state for out in outs])
            beside |= {f"block_{i:02d}": out for i, out in zip(segment.layers, outs, strict=True)}
    return _gathered(carry[0], new_state, beside)


def reads_shortcut(block: Any) -> bool:
    """Whether a block asks for the previous block's tokens before its mixer."""
    return getattr(block, "reads_shortcut", False)


_Carry = tuple[Float[Array, "B T D"], Float[Array, "B T D"] | None]
"""Tokens, and those of the block before as they were before its mixer (None where no block asks)."""


class _Beside(NamedTuple):
    """What a block returns beside its tokens."""

    state: Any
    losses: dict[str, Float[Array, ""]]
    metrics: dict[str, Float[Array, "..."]]
    plan: Any


def _apply_block(
    block: Any, apply: ApplyBlock, return_plans: bool, params: Any, carry: _Carry, inputs: Any
) -> tuple[_Carry, _Beside]:
    (x, shortcut), (state, key, extra) = carry, inputs
    given = {"shortcut": over_batch(shortcut)} if shortcut is not None and reads_shortcut(block) else {}
    out = apply(block, params, state, over_batch(x), key, extra, **given)
    carry = over_batch(out.tokens), None if shortcut is None else over_batch(out.shortcut)
    return carry, _Beside(out.state, out.losses, out.metrics, out.plan if return_plans else None)


def _gathered(x: Float[Array, "B T D"], state: dict[str, Any], layers: dict[str, _Beside]) -> Blocks:
    in_order = sorted(layers.items())
    names = sorted({name for layer in layers.values() for name in layer.losses})
    return Blocks(
        tokens=x,
        state=state,
        losses={name: _mean([out.losses[name] for _, out in in_order if name in out.losses]) for name in names},
        metrics={f"{block}/{name}": value for block, out in in_order for name, value in out.metrics.items()},
        plans={block: out.plan for block, out in in_order if out.plan is not None},
    )


def _mean(values: list[Float[Array, ""]]) -> Float[Array, ""]:
    return sum(values[1:], values[0]) / jnp.asarray(len(values), jnp.float32)
