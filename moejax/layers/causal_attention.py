"""Causal self-attention of language models: rotary positions, heads that share keys and values, and a cache of both.

Source: Vaswani et al. 2017, section 3.2; rotary positions: Su et al. 2021 (`rotary`); grouped queries: Ainslie et al. 2023,
    "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints", section 2.2; sliding window:
    Jiang et al. 2023, "Mistral 7B", section 2 (with its rolling buffer cache, here `key_value_cache`).
Deviations: all scores of a sequence are computed and those outside of the window masked; the papers give no initialisation
    (kernels lecun-normal, biases zero).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from moejax.core.dropout import check_rate, dropout
from moejax.core.errors import SpecError
from moejax.core.rng import maybe_named
from moejax.layers.key_value_cache import KeyValues, fill, slot_positions, write
from moejax.layers.norms import RMSNorm
from moejax.layers.projection import init_kernel, project
from moejax.layers.rotary import check_rotary, rotate

_KERNEL = jax.nn.initializers.lecun_normal()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalAttention:
    """num_heads heads of head_dim numbers; every num_heads / num_kv_heads of them share keys and values.

    rope_base: see `rotary`. sliding_window: a token sees itself and the W - 1 tokens before it; None: all before it.
    bias: 'none', 'qkv' (on queries, keys and values), or 'all' (on the output too).
    qk_norm: RMS norm of queries and keys before they are rotated: 'none', 'width' (over all heads together, as OLMoE), or
        'head' (over each head, one scale for all, as Qwen3). norm_epsilon: of that norm.
    dropout_rate: rate on the attention weights.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_base: float = 10_000.0
    sliding_window: int | None = None
    bias: Literal["none", "qkv", "all"] = "none"
    qk_norm: Literal["none", "width", "head"] = "none"
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise SpecError(
                f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}, both at least 1: queries share keys "
                "and values in groups of equal size."
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise SpecError(
                f"sliding_window={self.sliding_window} must be at least 1, or None to see all tokens before."
            )
        check_rotary(self.head_dim, self.rope_base)
        check_rate("dropout_rate", self.dropout_rate)
        _ = self._norm  # its own check

    def init(self, key: PRNGKeyArray, dim: int) -> dict[str, Any]:
        """Kernels query [D H*d], key, value [D Hkv*d], out [H*d D], their biases, and scales for qk-norm."""
        widths = self._widths
        params: dict[str, Any] = {name: init_kernel(key, name, (dim, width), _KERNEL) for name, width in widths.items()}
        params["out"] = init_kernel(key, "out", (widths["query"], dim), _KERNEL)
        if self.bias != "none":
            params |= {f"{name}_bias": jnp.zeros(width) for name, width in widths.items()}
        if self.bias == "all":
            params["out_bias"] = jnp.zeros(dim)
        if self.qk_norm != "none":
            for name in ("query", "key"):
                params[f"{name}_norm"] = self._norm.init(self.head_dim if self.qk_norm == "head" else widths[name])
        return params

    def apply(
        self, params: dict[str, Any], x: Float[Array, "B T D"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "B T D"]:
        """Every token attends to itself and to those before it; positions count from 0."""
        return self._over_sequence(params, x, key)[0]

    def prefill(
        self, params: dict[str, Any], x: Float[Array, "B T D"], lengths: Int[Array, "B"], *, cache_length: int
    ) -> tuple[Float[Array, "B T D"], KeyValues]:
        """`apply` without a key, and a cache that holds what `step` needs of the first `lengths` tokens of each sequence.

        cache_length: the longest sequence that will be decoded; with a sliding window no more slots than it are kept.
        """
        y, key, value = self._over_sequence(params, x, None)
        slots = min(cache_length, self.sliding_window or cache_length)
        return y, KeyValues(fill(key, lengths, slots), fill(value, lengths, slots))

    def step(
        self, params: dict[str, Any], x: Float[Array, "B 1 D"], cache: KeyValues, positions: Int[Array, "B"]
    ) -> tuple[Float[Array, "B 1 D"], KeyValues]:
        """One token more of every sequence, at `positions`, which attends to itself and to the cache; and the cache after it."""
        query, key, value = self._heads(params, x, positions[:, None])
        cache = KeyValues(write(cache.key, key, positions), write(cache.value, value, positions))
        held = slot_positions(positions, cache.key.shape[2])
        seen = self._seen(positions[:, None], held) & (held >= 0)[:, None]
        return self._attend(params, query, cache.key, cache.value, seen, None), cache

    def _over_sequence(
        self, params: dict[str, Any], x: Float[Array, "B T D"], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B H2 T d"], Float[Array, "B H2 T d"]]:
        positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        query, keys, value = self._heads(params, x, positions)
        return self._attend(params, query, keys, value, self._seen(positions, positions), key), keys, value

    def _seen(self, query: Int[Array, "B T"], key: Int[Array, "B T2"]) -> Bool[Array, "B T T2"]:
        distance = query[:, :, None] - key[:, None]
        near = distance < (self.sliding_window or jnp.iinfo(jnp.int32).max)
        return (distance >= 0) & near

    def _heads(
        self, params: dict[str, Any], x: Float[Array, "B T D"], positions: Int[Array, "#B T"]
    ) -> tuple[Float[Array, "B H T d"], Float[Array, "B H2 T d"], Float[Array, "B H2 T d"]]:
        """Queries, keys and values; the first two normed and rotated."""
        found = []
        for name in ("query", "key", "value"):
            y = params[name].matmul(x) if self.bias == "none" else project(params, name, x)
            if self.qk_norm == "width" and name != "value":
                y = self._norm.apply(params[f"{name}_norm"], y)
            y = y.reshape(*y.shape[:2], -1, self.head_dim).swapaxes(1, 2)
            if self.qk_norm == "head" and name != "value":
                y = self._norm.apply(params[f"{name}_norm"], y)
            found.append(y if name == "value" else rotate(y, positions, self.rope_base))
        query, key, value = found
        return query, key, value

    def _attend(
        self,
        params: dict[str, Any],
        query: Float[Array, "B H T d"],
        keys: Float[Array, "B H2 T2 d"],
        values: Float[Array, "B H2 T2 d"],
        seen: Bool[Array, "#B T T2"],
        key: PRNGKeyArray | None,
    ) -> Float[Array, "B T D"]:
        """Scores and softmax in float32; products in the dtype of the queries."""
        batch, heads, tokens, width = query.shape
        query = query.reshape(batch, self.num_kv_heads, heads // self.num_kv_heads, tokens, width)
        query = query * jnp.asarray(width**-0.5, query.dtype)
        scores = jnp.einsum("BHgTd,BHSd->BHgTS", query, keys).astype(jnp.float32)
        scores = jnp.where(seen[:, None, None], scores, -jnp.inf)
        weight = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
        weight = dropout(weight, self.dropout_rate, key=maybe_named(key, "attention_weight"))
        y = jnp.einsum("BHgTS,BHSd->BTHgd", weight, values)
        y = y.reshape(batch, tokens, heads * width)
        return project(params, "out", y) if self.bias == "all" else params["out"].matmul(y)

    @property
    def _widths(self) -> dict[str, int]:
        shared = self.num_kv_heads * self.head_dim
        return {"query": self.num_heads * self.head_dim, "key": shared, "value": shared}

    @property
    def _norm(self) -> RMSNorm:
        return RMSNorm(epsilon=self.norm_epsilon)
