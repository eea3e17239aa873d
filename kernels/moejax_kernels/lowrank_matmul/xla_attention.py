"""Attention from rank space with XLA operations: a head of one sequence at a time, its scores in tiles.

For each sequence and head the queries, keys and values [T K] are rebuilt from the rank-space tokens; tiles of queries then
pass over tiles of keys with a running maximum and sum. The backward pass rebuilds both, and the tiles' weights from the kept
log-sum of exponentials.
Source: tiles and online softmax: Dao et al. 2022, "FlashAttention", algorithms 1 and 4; projections rebuilt from rank space:
    FlashSVD.
Deviations: keys and values are rebuilt once per head and not once per tile of queries: on a CPU a head of one sequence is
    small and rebuilding costs more than holding it. The backward pass from rank space is ours.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from moejax_kernels.grouped_matmul.options import Options, accumulator_of
from moejax_kernels.manual_axes import vary_like

TOKEN_BLOCK = 256  # queries, and keys, of a tile of scores

Arrays = tuple[Array, ...]  # of query, key and value


def attention(tokens: Arrays, factors: Arrays, *, causal: bool, options: Options) -> tuple[Array, Array]:
    """As `gradients.py` asks."""
    batch, length, _ = tokens[0].shape
    heads, _, width = factors[2].shape
    block, tokens = _padded(options, tokens)
    tiles, wide = tokens[0].shape[1] // block, _wide(tokens[0])

    def one_head(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        b, h = i // heads, i % heads
        query, key, value = _rebuild(tokens, factors, b, h, options)

        def one_row(row: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            out, logsumexp = carry
            q = lax.dynamic_slice_in_dim(query, row * block, block)

            def one_tile(column: Array, state: Arrays) -> Arrays:
                total, peak, norm = state
                k, v = (lax.dynamic_slice_in_dim(a, column * block, block) for a in (key, value))
                scores = _scores(q, k, row * block, column * block, length, causal, options)
                higher = jnp.maximum(peak, jnp.max(scores, axis=1, keepdims=True))
                weight, shrink = jnp.exp(scores - higher), jnp.exp(peak - higher)
                total = total * shrink + _dot(weight.astype(v.dtype), v, (1, 0), options)
                return total, higher, norm * shrink + jnp.sum(weight, axis=1, keepdims=True)

            column = vary_like(jnp.zeros((block, 1), wide), query)
            start = (vary_like(jnp.zeros((block, width), wide), query), column - jnp.inf, column)
            total, peak, norm = lax.fori_loop(0, row + 1 if causal else tiles, one_tile, start)
            found = (total / norm).astype(out.dtype)[None]
            out = lax.dynamic_update_slice(out, found, (b, row * block, h * width))
            told = (peak + jnp.log(norm)).reshape(1, 1, block).astype(logsumexp.dtype)
            return out, lax.dynamic_update_slice(logsumexp, told, (b, h, row * block))

        return lax.fori_loop(0, tiles, one_row, carry)

    # All of it is written. Made from the tokens, as zeros would be filled, and held, before anything else in the program.
    start = tokens[2][:, :, :1].astype(options.dtype)
    out = jnp.broadcast_to(start, (batch, tiles * block, heads * width))
    carry = vary_like((out, jnp.zeros((batch, heads, tiles * block), jnp.float32)), tokens[0])
    out, logsumexp = lax.fori_loop(0, batch * heads, one_head, carry)
    return out[:, :length], logsumexp[:, :, :length]


def attention_backward(
    tokens: Arrays, factors: Arrays, out: Array, logsumexp: Array, dy: Array, *, causal: bool, options: Options
) -> tuple[Arrays, Arrays]:
    """As `gradients.py` asks; gradients of rank-space tokens are summed over heads, those of factors over sequences."""
    batch, length, _ = tokens[0].shape
    heads, _, width = factors[2].shape
    block, (*padded, out, dy) = _padded(options, (*tokens, out, dy))
    tokens = tuple(padded)
    logsumexp = jnp.pad(logsumexp, ((0, 0), (0, 0), (0, out.shape[1] - length)))
    wide = _wide(tokens[0])

    def one_head(i: Array, carry: tuple[Arrays, Arrays]) -> tuple[Arrays, Arrays]:
        b, h = i // heads, i % heads
        projections = _rebuild(tokens, factors, b, h, options)
        size = (1, out.shape[1], width)
        out_head, dy_head = (lax.dynamic_slice(a, (b, 0, h * width), size)[0].astype(wide) for a in (out, dy))
        kept = (lax.dynamic_slice(logsumexp, (b, h, 0), (1, 1, out.shape[1])).reshape(-1, 1).astype(wide), dy_head)
        inner = jnp.sum(out_head * dy_head, axis=1, keepdims=True)
        found = _head_backward(projections, (*kept, inner), block, length, causal, options)
        d_tokens, d_factors = carry
        pairs = [_projection_backward(t, f, d, b, h, options) for t, f, d in zip(tokens, factors, found, strict=True)]
        d_tokens = tuple(_add_at(total, part, b) for total, (part, _) in zip(d_tokens, pairs, strict=True))
        d_factors = tuple(_add_at(total, part, h) for total, (_, part) in zip(d_factors, pairs, strict=True))
        return d_tokens, d_factors

    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, wide), (tokens, factors))
    d_tokens, d_factors = lax.fori_loop(0, batch * heads, one_head, vary_like(zeros, tokens[0]))
    d_tokens = tuple(d[:, :length].astype(t.dtype) for d, t in zip(d_tokens, tokens, strict=True))
    return d_tokens, tuple(d.astype(f.dtype) for d, f in zip(d_factors, factors, strict=True))


def _head_backward(
    projections: Arrays, kept: Arrays, block: int, length: int, causal: bool, options: Options
) -> Arrays:
    """Gradients of the queries [T K], keys [T K] and values [T N] of one head of one sequence, float32 at least."""
    query, key, value = projections
    scale = query.shape[1] ** -0.5
    tiles, wide = query.shape[0] // block, _wide(query)

    def one_row(row: Array, sums: Arrays) -> Arrays:
        d_query, d_key, d_value = sums
        q, logsumexp, dy, inner = (lax.dynamic_slice_in_dim(a, row * block, block) for a in (query, *kept))
        rounded = dy.astype(q.dtype)

        def one_tile(column: Array, state: Arrays) -> Arrays:
            d_q, d_key, d_value = state
            k, v = (lax.dynamic_slice_in_dim(a, column * block, block) for a in (key, value))
            weight = jnp.exp(_scores(q, k, row * block, column * block, length, causal, options) - logsumexp)
            d_scores = (weight * (_dot(rounded, v, (1, 1), options) - inner) * scale).astype(q.dtype)
            d_key = _add_rows(d_key, _dot(d_scores, q, (0, 0), options), column * block)
            d_value = _add_rows(d_value, _dot(weight.astype(q.dtype), rounded, (0, 0), options), column * block)
            return d_q + _dot(d_scores, k, (1, 0), options), d_key, d_value

        d_q = vary_like(jnp.zeros(q.shape, wide), query)
        d_q, d_key, d_value = lax.fori_loop(0, row + 1 if causal else tiles, one_tile, (d_q, d_key, d_value))
        return lax.dynamic_update_slice_in_dim(d_query, d_q, row * block, 0), d_key, d_value

    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, wide), projections)
    return lax.fori_loop(0, tiles, one_row, vary_like(zeros, query))


def _projection_backward(
    tokens: Array, factors: Array, d_projection: Array, b: Array, h: Array, options: Options
) -> tuple[Array, Array]:
    """Gradients of one sequence's rank-space tokens [1 T R] and one head's factor [1 R K]."""
    token, factor, d = _item(tokens, b), _item(factors, h), d_projection.astype(tokens.dtype)
    return _dot(d, factor, (1, 1), options)[None], _dot(token, d, (0, 0), options)[None]


def _rebuild(tokens: Arrays, factors: Arrays, b: Array, h: Array, options: Options) -> Arrays:
    """The queries, keys and values of one head of one sequence, in the dtype of the tokens."""
    pairs = zip(tokens, factors, strict=True)
    return tuple(_dot(_item(t, b), _item(f, h), (1, 0), options).astype(t.dtype) for t, f in pairs)


def _scores(query: Array, key: Array, row: Array, column: Array, length: int, causal: bool, options: Options) -> Array:
    """A tile of scores whose first query is token `row` and first key token `column`; -inf where a key is not seen."""
    scores = _dot(query, key, (1, 1), options) * query.shape[1] ** -0.5
    at = column + lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    seen = at < length
    if causal:
        seen = seen & (at <= row + lax.broadcasted_iota(jnp.int32, scores.shape, 0))
    return jnp.where(seen, scores, -jnp.inf)


def _padded(options: Options, arrays: Arrays) -> tuple[int, Arrays]:
    """The block of tokens, and arrays [B T ...] with zeros up to a whole number of blocks."""
    length = arrays[0].shape[1]
    block = min(TOKEN_BLOCK if options.tiling is None else options.tiling[0], length)
    return block, tuple(jnp.pad(a, ((0, 0), (0, -length % block), (0, 0))) for a in arrays)


def _add_at(total: Array, part: Array, at: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(total, lax.dynamic_slice_in_dim(total, at, 1) + part, at, 0)


def _add_rows(total: Array, part: Array, at: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(total, lax.dynamic_slice_in_dim(total, at, part.shape[0]) + part, at, 0)


def _item(a: Array, at: Array) -> Array:
    return lax.dynamic_index_in_dim(a, at, 0, keepdims=False)


def _dot(a: Array, b: Array, axes: tuple[int, int], options: Options) -> Array:
    contract = (((axes[0],), (axes[1],)), ((), ()))
    return lax.dot_general(a, b, contract, precision=options.precision, preferred_element_type=_wide(a))


def _wide(x: Array) -> jnp.dtype:
    return accumulator_of(x.dtype)
