"""Attention whose queries, keys and values are products with low-rank leaves and never lie in memory as a whole.

Source: FlashSVD, the attention kernel.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float
from moejax_kernels.lowrank_matmul import lowrank_attention

from moejax.linear.low_rank import LowRank


def rank_space_attention(
    params: Mapping[str, Any], x: Float[Array, "B T D"], *, num_heads: int, causal: bool = False
) -> Float[Array, "B T D"] | None:
    """Self-attention by the leaves query, key and value of `params` with their biases; None unless all three are low-rank.

    The bias of the keys is not read: it adds the same to all scores of a query, which the softmax does not see.
    """
    query, key, value = (params[name] for name in ("query", "key", "value"))
    if not all(isinstance(leaf, LowRank) for leaf in (query, key, value)):
        return None
    return lowrank_attention(
        x,
        _factors(query, x),
        _factors(key, x),
        _factors(value, x),
        query_bias=params["query_bias"].astype(x.dtype),
        value_bias=params["value_bias"].astype(x.dtype),
        num_heads=num_heads,
        causal=causal,
    )


def _factors(leaf: LowRank, x: Array) -> tuple[Array, Array]:
    return leaf.u.astype(x.dtype), leaf.v.astype(x.dtype)
