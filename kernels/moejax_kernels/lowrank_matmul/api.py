"""The entries: products with a pair of factors u [D R], v [R F] in place of one kernel [D F]; grouped: a pair per expert.

`implementation`, `tiling`, `precision`, `preferred_element_type` and `interpret` are as in `grouped_matmul.api`; tilings are
those of the implementation's own low-rank kernels. The implementation used stands in `jax.named_scope`.
Grouped entries take per-expert `ranks`: factors are stored padded to R, and columns of u and rows of v beyond ranks[e] count
as absent: what they hold (NaN too) reaches nothing, and their gradients are exactly zero.
All are differentiable backwards; attention once, the others any number of times.
Sums are kept in float32 at least, activations are taken in float32, and what enters a product has the dtype of x.
Source: ours; factors as of a truncated singular value decomposition (Eckart and Young 1936).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax_kernels.grouped_matmul.checks import check_floating, check_group_sizes
from moejax_kernels.grouped_matmul.options import options_for
from moejax_kernels.lowrank_matmul import batched, gradients
from moejax_kernels.lowrank_matmul.biases import add_component, add_to_heads, widen
from moejax_kernels.lowrank_matmul.checks import check_bias, check_factors, check_ffn, check_heads, check_ranks

IMPLEMENTATIONS = ("reference", "xla", "pallas_tpu", "pallas_gpu")
Factors = Any  # u and v as (Array, Array); their number, shapes and dtypes are checked with messages


def lowrank_matmul(
    x: Float[Array, "M D"], u: Float[Array, "..."], v: Float[Array, "..."], **settings: Any
) -> Float[Array, "M F"]:
    """(x u) v with u [D R] and v [R F]. Settings and errors as for `grouped_lowrank_matmul`. FLOPs: 2 R (D + F) per row.

    'xla' multiplies all rows at once, without tiles: for one group a loop over blocks holds more than the [M R] it saves.
    """
    _check_rows(x)
    check_factors("(u, v)", (u, v), x.shape[1])
    dtype = check_floating(x=x, u=u, v=v)
    options = options_for(**({"implementation": None} | settings), known=IMPLEMENTATIONS, dtype=dtype)
    if options.implementation == "xla":
        with jax.named_scope("lowrank_matmul_xla"):
            return batched.through(x, (u, v), options).astype(options.dtype)
    return grouped_lowrank_matmul(x, u[None], v[None], _one_group(x), **settings)


def grouped_lowrank_matmul(
    x: Float[Array, "M D"],
    u: Float[Array, "..."],
    v: Float[Array, "..."],
    group_sizes: Int[Array, "..."],
    *,
    ranks: Int[Array, "..."] | None = None,
    implementation: str | None = None,
    tiling: tuple[int, ...] | None = None,
    precision: str | jax.lax.Precision | None = None,
    preferred_element_type: Any = None,
    interpret: Any = False,
) -> Float[Array, "M F"]:
    """Row m becomes (x[m] u[e]) v[e], e its group, with u [E D R], v [E R F]; group_sizes and ranks are [E].

    Rows after the last group are zero in the output and get a zero gradient; an empty group's factors get a gradient of
    exactly zero. FLOPs: 2 R (D + F) per row of a group.
    Raises ValueError for shapes that do not fit, integer or mixed dtypes, concrete sizes that are negative or exceed M,
    concrete ranks outside 0 and R, an unknown implementation, and a platform that cannot run it.
    """
    _check_rows(x)
    check_factors("(u, v)", (u, v), x.shape[1], experts=group_sizes.shape[0])
    check_group_sizes(group_sizes, x.shape[0], u.shape[0])
    check_ranks("ranks", ranks, (u, v))
    dtype = check_floating(x=x, u=u, v=v)
    options = options_for(
        implementation,
        IMPLEMENTATIONS,
        dtype=dtype,
        preferred_element_type=preferred_element_type,
        tiling=tiling,
        precision=precision,
        interpret=interpret,
    )
    with jax.named_scope(f"grouped_lowrank_matmul_{options.implementation}"):
        return gradients.product(x, (u, v), group_sizes, ranks, options)


def lowrank_ffn(
    x: Float[Array, "M D"],
    up: Factors,
    down: Factors,
    *,
    gate: Factors | None = None,
    up_bias: Float[Array, "..."] | None = None,
    activation: str | None,
    **settings: Any,
) -> Float[Array, "M F2"]:
    """activation(x up + up_bias) down, each a pair (u, v) without an expert axis, the bias [F].

    Settings and errors as for `grouped_lowrank_ffn`.
    """
    _check_rows(x)
    check_factors("up", up, x.shape[1])
    check_factors("down", down, up[1].shape[1])
    if gate is not None:
        check_factors("gate", gate, x.shape[1])
    check_bias("up_bias", up_bias, up[1].shape[1:])
    grouped = jax.tree.map(lambda operand: operand[None], {"up": up, "down": down, "gate": gate, "up_bias": up_bias})
    return grouped_lowrank_ffn(x, group_sizes=_one_group(x), activation=activation, **grouped, **settings)


def grouped_lowrank_ffn(
    x: Float[Array, "M D"],
    up: Factors,
    down: Factors,
    group_sizes: Int[Array, "..."],
    *,
    gate: Factors | None = None,
    up_bias: Float[Array, "..."] | None = None,
    activation: str | None,
    up_ranks: Int[Array, "..."] | None = None,
    gate_ranks: Int[Array, "..."] | None = None,
    down_ranks: Int[Array, "..."] | None = None,
    implementation: str | None = None,
    tiling: tuple[int, ...] | None = None,
    precision: str | jax.lax.Precision | None = None,
    preferred_element_type: Any = None,
    interpret: Any = False,
) -> Float[Array, "M F2"]:
    """Row m becomes activation(x[m] up) down with the factors of its group; gated: (activation(x gate) * (x up)) down.

    up and gate are (u [E D R], v [E R F]), down is (u [E F S], v [E S O]); each may have a rank of its own. up_bias [E F] is
    added to x up before anything else (a bias of the output is the caller's). No [M R] and no [M F] buffer is written by a
    fused implementation ('reference' is not one). Zero rows, zero gradients and errors as for `grouped_lowrank_matmul`.
    FLOPs per row: 2 R (D + F) + 2 S (F + O), and 2 R (D + F) again with a gate; a bias counts as one more R, and x is copied.
    """
    _check_rows(x)
    ranks = (up_ranks, gate_ranks, down_ranks)
    dtype = check_ffn(x, up, gate, down, up_bias, ranks, group_sizes.shape[0], activation)
    check_group_sizes(group_sizes, x.shape[0], group_sizes.shape[0])
    options = options_for(
        implementation,
        IMPLEMENTATIONS,
        dtype=dtype,
        preferred_element_type=preferred_element_type,
        tiling=tiling,
        precision=precision,
        interpret=interpret,
    )
    if up_bias is not None:
        x, up, up_ranks = add_component(x, up, up_bias, up_ranks)
        gate, ranks = None if gate is None else widen(gate), (up_ranks, gate_ranks, down_ranks)
    with jax.named_scope(f"grouped_lowrank_ffn_{options.implementation}"):
        return gradients.ffn(x, up, gate, down, group_sizes, ranks, activation, options)


def batched_lowrank_ffn(
    x: Float[Array, "E C D"],
    up: Factors,
    down: Factors,
    *,
    gate: Factors | None = None,
    up_bias: Float[Array, "..."] | None = None,
    activation: str | None,
    up_ranks: Int[Array, "..."] | None = None,
    gate_ranks: Int[Array, "..."] | None = None,
    down_ranks: Int[Array, "..."] | None = None,
    **settings: Any,
) -> Float[Array, "E C F2"]:
    """`grouped_lowrank_ffn` of buffers: as many rows for each expert, all of them computed.

    Settings and errors as there, but that the tiling of 'xla' is one number: the most hidden numbers of a block.
    """
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}; buffers are [E C D].")
    ranks: dict[str, Any] = {"up_ranks": up_ranks, "gate_ranks": gate_ranks, "down_ranks": down_ranks}
    dtype = check_ffn(x, up, gate, down, up_bias, tuple(ranks.values()), x.shape[0], activation)
    options = options_for(**({"implementation": None} | settings), known=IMPLEMENTATIONS, dtype=dtype)
    if options.implementation == "xla":
        cut = [pair and gradients.cut_factors(pair, rank)[0] for pair, rank in zip((up, gate, down), ranks.values())]
        with jax.named_scope("batched_lowrank_ffn_xla"):
            return batched.ffn(x, (cut[0], cut[1], cut[2], up_bias), activation, options)
    rows, sizes = x.reshape(-1, x.shape[2]), jnp.full(x.shape[:1], x.shape[1], jnp.int32)
    told: dict[str, Any] = {"gate": gate, "up_bias": up_bias, "activation": activation}
    return grouped_lowrank_ffn(rows, up, down, sizes, **told, **ranks, **settings).reshape(*x.shape[:2], -1)


def lowrank_attention(
    x: Float[Array, "B T D"],
    query: Factors,
    key: Factors,
    value: Factors,
    *,
    num_heads: int,
    query_bias: Float[Array, "..."] | None = None,
    value_bias: Float[Array, "..."] | None = None,
    causal: bool = False,
    implementation: str | None = None,
    tiling: tuple[int, ...] | None = None,
    precision: str | jax.lax.Precision | None = None,
    preferred_element_type: Any = None,
    interpret: Any = False,
) -> Float[Array, "B T F"]:
    """Self-attention whose projections are pairs (u [D R], v [R H*K]): softmax(q k^T / sqrt(K)) v per head, [B T H*N].

    Only the rank-space tokens x u [B T R] are kept; tiles of q, k and v are rebuilt from them where they are used, with a
    running softmax, so that neither a [B T H*K] projection nor a [T T] score matrix exists in a fused implementation.
    `causal`: token t sees tokens 0..t. value may have another head width N than query and key. query_bias [H*K] and
    value_bias [H*N]; a bias of the keys adds the same to all scores of a query, so that the softmax does not see it.
    Raises ValueError for shapes that do not fit, widths that num_heads does not divide, integer or mixed dtypes, and a
    platform that cannot run the implementation.
    Source: FlashSVD, the attention kernel; online softmax: Milakov and Gimelshein 2018, algorithm 3.
    Deviations: no padding mask; the backward pass, by recomputation from rank space, is ours.
    """
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}; attention takes [B T D].")
    for name, factors in (("query", query), ("key", key), ("value", value)):
        check_factors(name, factors, x.shape[2])
    check_heads(num_heads, query, key, value)
    check_bias("query_bias", query_bias, query[1].shape[1:])
    check_bias("value_bias", value_bias, value[1].shape[1:])
    dtype = check_floating(
        x=x,
        query=query[0],
        query_v=query[1],
        key=key[0],
        key_v=key[1],
        value=value[0],
        value_v=value[1],
        **_present(query_bias=query_bias, value_bias=value_bias),
    )
    # There is no Hopper kernel for it: asked for by name it is refused, by platform it is passed over.
    known = IMPLEMENTATIONS if implementation else tuple(name for name in IMPLEMENTATIONS if name != "pallas_gpu")
    options = options_for(
        implementation,
        known,
        dtype=dtype,
        preferred_element_type=preferred_element_type,
        tiling=tiling,
        precision=precision,
        interpret=interpret,
    )
    with jax.named_scope(f"lowrank_attention_{options.implementation}"):
        tokens = tuple(jnp.einsum("BTD,DR->BTR", x, u, precision=precision) for u, _ in (query, key, value))
        heads = tuple(v.reshape(v.shape[0], num_heads, -1).swapaxes(0, 1) for _, v in (query, key, value))
        if query_bias is not None:
            own = add_to_heads(tokens[0], heads[0], query_bias)
            tokens, heads = (own[0], *tokens[1:]), (own[1], *heads[1:])
        out = gradients.attention(tokens, heads, causal, options)
        # The weights of a token sum to one, so that what all values have in common comes out as it is.
        return out if value_bias is None else out + jnp.broadcast_to(value_bias.astype(out.dtype), out.shape)


def _present(**operands: Array | None) -> dict[str, Array]:
    return {name: operand for name, operand in operands.items() if operand is not None}


def _check_rows(x: Array) -> None:
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; rows are [M D].")


def _one_group(x: Array) -> Array:
    return jnp.full((1,), x.shape[0], jnp.int32)
