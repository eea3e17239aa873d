"""Decoding: a decoder reads prompts once, then writes token by token from what its attention has cached.

Source: ours; the cache is that of `layers/key_value_cache.py`.
Deviations: none from the full forward pass: the law is that prefill and steps give its logits. Where that cannot hold, because
    what an expert does for a token depends on other tokens (capacity) or on its place in the group, decoding is refused.
"""

import dataclasses
import functools
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.outputs import LayerOutput
from moejax.core.plans import TokenChoice
from moejax.core.segments import segments_named, turns
from moejax.layers.decoder_block import DecoderBlock
from moejax.layers.moe import MoE
from moejax.models.decoder import Decoder
from moejax.models.next_token import GREEDY, NextToken


@flax.struct.dataclass
class Cache:
    """What a decoder remembers of its sequences.

    layers: `KeyValues` by segment, stacked as the parameters are. lengths: tokens of each sequence so far.
    """

    layers: dict[str, Any]
    lengths: Annotated[Any, Int[Array, "B"]]


@flax.struct.dataclass
class Written:
    """tokens: what follows each prompt; after a stop token only that one again. lengths: without those repetitions."""

    tokens: Annotated[Any, Int[Array, "B T"]]
    lengths: Annotated[Any, Int[Array, "B"]]


def generate(
    model: Decoder,
    params: dict[str, Any],
    state: dict[str, Any],
    prompts: Int[Array, "B T"],
    *,
    lengths: Int[Array, "B"] | None = None,
    steps: int,
    next_token: NextToken = GREEDY,
    stop_tokens: tuple[int, ...] = (),
    key: PRNGKeyArray | None = None,
) -> Written:
    """`steps` tokens after each prompt, in one scan; pure, so that it may be compiled whole (all but arrays static).

    prompts: aligned to the left; lengths: tokens of each, from 1 to T (None: all T), what lies behind is not read.
    key: for a temperature above 0. Raises SpecError for no steps, for prompts and steps beyond max_length, a stop token outside of
    the vocabulary, a missing key, and for a model whose experts' work depends on more than the token.
    """
    batch, length = prompts.shape
    _check_room(model, length, steps, stop_tokens)
    if lengths is None:
        lengths = jnp.full((batch,), length, jnp.int32)
    keys = [None] * steps if key is None else jax.random.split(key, steps)
    logits, cache = prefill(model, params, state, prompts, lengths, cache_length=length + steps)
    first = next_token.choose(logits, keys[0])
    stops = jnp.asarray(stop_tokens, jnp.int32)

    def write(carry: Any, key: Any) -> tuple[Any, Any]:
        cache, token = carry
        logits, cache = step(model, params, state, cache, token)
        token = jnp.where(jnp.isin(token, stops), token, next_token.choose(logits, key))
        return (cache, token), token

    later = None if key is None else keys[1:]
    _, rest = jax.lax.scan(write, (cache, first), later, length=steps - 1)
    tokens = jnp.concatenate([first[:, None], rest.swapaxes(0, 1)], axis=1)
    before_stop = jnp.cumprod(~jnp.isin(tokens, stops), axis=1, dtype=jnp.int32).sum(axis=1)
    return Written(tokens, jnp.minimum(before_stop + 1, steps))


def prefill(
    model: Decoder,
    params: dict[str, Any],
    state: dict[str, Any],
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    *,
    cache_length: int,
) -> tuple[Float[Array, "B N"], Cache]:
    """Logits after the last token of each sequence, and the cache; cache_length: the longest sequence that will be written.

    tokens: aligned to the left, `lengths` of them; what lies behind is not read. Raises SpecError as `generate`.
    """
    model = _ungrouped(model)
    model.check_batch(*tokens.shape)
    if not tokens.shape[1] <= cache_length <= model.max_length:
        raise SpecError(
            f"cache_length={cache_length} must be within the {tokens.shape[1]} tokens of the sequences and "
            f"max_length={model.max_length}."
        )

    def layer(block: DecoderBlock, own: Any, own_state: Any, x: Any, _: None) -> tuple[LayerOutput, Any]:
        return block.prefill(own, own_state, x, lengths, cache_length=cache_length, token_ids=tokens)

    x, caches = _through(model, params, state, model.embed(params, tokens), None, layer)
    last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)
    return model.predict(params, last)[0][:, 0], Cache(caches, lengths)


def step(
    model: Decoder, params: dict[str, Any], state: dict[str, Any], cache: Cache, tokens: Int[Array, "B"]
) -> tuple[Float[Array, "B N"], Cache]:
    """Logits after one token more of every sequence, and the cache with it.

    Sequences longer than the `cache_length` of `prefill` lose their first tokens silently; count the steps.
    """
    model, ids = _ungrouped(model), tokens[:, None]

    def layer(block: DecoderBlock, own: Any, own_state: Any, x: Any, memory: Any) -> tuple[LayerOutput, Any]:
        return block.step(own, own_state, x, memory, cache.lengths, token_ids=ids)

    x, caches = _through(model, params, state, model.embed(params, ids), cache.layers, layer)
    return model.predict(params, x)[0][:, 0], Cache(caches, cache.lengths + 1)


def _through(
    model: Decoder, params: Any, state: Any, x: Float[Array, "B T D"], memory: Any, layer: Any
) -> tuple[Float[Array, "B T D"], dict[str, Any]]:
    """Tokens through all blocks; memory: of each segment (None: none yet), to what `layer` returns beside its tokens."""
    found: dict[str, Any] = {}
    for group in turns(segments_named(params["blocks"], model.blocks)):
        names, length = [segment.name for segment in group], group[0].length
        given = [(params["blocks"][name], state["blocks"][name]) for name in names]
        held = [None if memory is None else memory[name] for name in names]

        def turn(x: Any, given: Any, held: Any, group: Any = group) -> tuple[Any, list[Any]]:
            kept = []
            for segment, own, cached in zip(group, given, held, strict=True):
                out, cached = layer(segment.spec, *own, x, cached)
                _check_alone(segment.spec, out.plan)
                x = out.tokens
                kept.append(cached)
            return x, kept

        if length == 1:
            x, kept = turn(x, given, held)
        else:
            x, kept = _stacked(turn, x, given, held, length, unroll=1 if model.scan else length)
        found |= dict(zip(names, kept, strict=True))
    return x, found


def _stacked(turn: Any, x: Any, given: Any, held: Any, length: int, *, unroll: int) -> tuple[Any, list[Any]]:
    """`turn` over stacked layers. What is held is carried and written in place: a second copy of a cache would not fit."""
    if not jax.tree.leaves(held):
        return jax.lax.scan(lambda x, own: turn(x, own, held), x, given, unroll=unroll)

    def once(carry: Any, own: Any) -> tuple[Any, None]:
        x, whole = carry
        layer, given = own
        mine = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, layer, keepdims=False), whole)
        x, kept = turn(x, given, mine)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=layer, axis=0)
        return (x, jax.tree.map(put, whole, kept)), None

    (x, kept), _ = jax.lax.scan(once, (x, held), (jnp.arange(length), given), unroll=unroll)
    return x, kept


def _ungrouped(model: Decoder) -> Decoder:
    """The same model that routes each sequence by itself; for experts that see each token alone nothing changes."""
    if model.moe is None or model.moe.group_size is None:
        return model
    return dataclasses.replace(model, moe=dataclasses.replace(model.moe, group_size=None))


def _check_alone(block: DecoderBlock, plan: Any) -> None:
    if plan is None or not isinstance(block.mixer, MoE):
        return
    router = block.mixer.router
    name = type(router).__module__.rpartition(".")[2]
    if not isinstance(plan, TokenChoice) or plan.capacity is not None:
        raise SpecError(
            f"router {name!r} gives experts a capacity, so that what a token gets depends on the tokens before it, which "
            "decoding step by step does not see; decode with a dropless router (capacity_factor=None, or "
            "eval_capacity_factor=None)."
        )
    if getattr(router, "by_position", False):
        raise SpecError(
            f"router {name!r} decides by a token's place in its group, and a token decoded by itself has none; use a router that "
            "reads the token, such as 'top_k' or 'hash'."
        )


def _check_room(model: Decoder, length: int, steps: int, stop_tokens: tuple[int, ...]) -> None:
    if steps < 1:
        raise SpecError(f"steps={steps} must be at least 1.")
    if length + steps > model.max_length:
        raise SpecError(
            f"a prompt of {length} tokens and {steps} more are {length + steps}; this model takes max_length={model.max_length}: "
            f"cut the prompt, or take {max(model.max_length - length, 0)} steps at most."
        )
    wrong = [token for token in stop_tokens if not 0 <= token < model.vocab_size]
    if wrong:
        raise SpecError(f"stop token {wrong[0]} is no token of the vocabulary (0 to {model.vocab_size - 1}).")
