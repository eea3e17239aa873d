"""Multi-head attention, written out: scores and softmax in float32, products in the dtype of x."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from moejax.core.dropout import check_rate, dropout
from moejax.core.errors import SpecError
from moejax.core.rng import maybe_named
from moejax.layers.norms import LayerNorm
from moejax.layers.projection import init_projection, project
from moejax.linear.rank_space_attention import rank_space_attention

_XAVIER = jax.nn.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention with `num_heads` heads; queries may come from other tokens than keys and values.

    qk_norm: layer norm (shared by all heads) of each head's queries and keys; with a scale only, or qk_norm_bias.
    dropout_rate: rate on the attention weights. causal: position t sees positions up to t only.
    from_rank_space: low-rank queries, keys and values are rebuilt tile by tile where they are used, which takes the least
        memory; other leaves, masks, qk_norm and active dropout go the usual way.
    Source: Vaswani et al. 2017, section 3.2.2; qk-norm: Dehghani et al. 2023, "Scaling Vision Transformers to 22
        Billion Parameters", section 2. Kernels xavier uniform, biases zero, as ViT's public code does.
    """

    num_heads: int
    qk_norm: bool = False
    qk_norm_bias: bool = False
    dropout_rate: float = 0.0
    causal: bool = False
    from_rank_space: bool = False

    def __post_init__(self) -> None:
        if self.num_heads < 1:
            raise SpecError(f"num_heads={self.num_heads} must be at least 1.")
        check_rate("dropout_rate", self.dropout_rate)

    def init(self, key: PRNGKeyArray, dim: int) -> dict[str, Any]:
        """Kernels query, key, value, out [D D] with biases [D], and scales (and biases) [D/H] for qk-norm.

        Raises SpecError when the heads do not divide the width.
        """
        check_heads(self.num_heads, dim)
        params: dict[str, Any] = {}
        for name in ("query", "key", "value", "out"):
            params |= init_projection(key, name, (dim, dim), _XAVIER)
        if self.qk_norm:
            params |= {name: self._qk_norm.init(dim // self.num_heads) for name in ("query_norm", "key_norm")}
        return params

    def apply(
        self,
        params: dict[str, Any],
        x: Float[Array, "B T D"],
        *,
        context: Float[Array, "B T2 D"] | None = None,
        mask: Bool[Array, "B T2"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "B T D"]:
        """Attention of x to `context` (to itself when None), where given only to tokens whose `mask` is true."""
        plain = context is None and mask is None and not self.qk_norm and (key is None or self.dropout_rate == 0.0)
        if self.from_rank_space and plain:
            y = rank_space_attention(params, x, num_heads=self.num_heads, causal=self.causal)
            if y is not None:
                return project(params, "out", y)
        source = x if context is None else context
        query, keys = self._heads(params, "query", x), self._heads(params, "key", source)
        values = self._heads(params, "value", source)
        if self.qk_norm:
            query = self._qk_norm.apply(params["query_norm"], query)
            keys = self._qk_norm.apply(params["key_norm"], keys)
        query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
        scores = jnp.einsum("BHTD,BHSD->BHTS", query, keys).astype(jnp.float32)
        if self.causal:
            seen = jnp.tri(scores.shape[-2], scores.shape[-1], dtype=bool)
            scores = jnp.where(jnp.broadcast_to(seen, scores.shape), scores, -jnp.inf)
        if mask is not None:  # the least number and not -inf: a sequence without any token stays finite
            scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weight = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        weight = dropout(weight, self.dropout_rate, key=maybe_named(key, "attention_weight"))
        y = jnp.einsum("BHTS,BHSD->BHTD", weight, values)
        return project(params, "out", y.swapaxes(1, 2).reshape(x.shape))

    @property
    def _qk_norm(self) -> LayerNorm:
        return LayerNorm(use_bias=self.qk_norm_bias)

    def _heads(self, params: dict[str, Any], name: str, x: Float[Array, "B T D"]) -> Float[Array, "B H T d"]:
        # Heads before tokens: on CPU the products of the other order take three times as long.
        y = project(params, name, x)
        return y.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)


def check_heads(num_heads: int, dim: int) -> None:
    """Raises SpecError when `num_heads` does not divide `dim`."""
    if num_heads < 1 or dim % num_heads:
        divisors = [h for h in range(1, dim + 1) if dim % h == 0]
        near = min(divisors, key=lambda h: (abs(h - num_heads), h))
        raise SpecError(f"num_heads={num_heads} does not divide dim={dim}; the nearest divisor is {near}.")
