"""The block of language models: causal attention and a feed-forward or mixture-of-experts layer, each RMS-normed before and
added after.

Source: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", section 2.2 (pre-norm by RMSNorm, after
    Zhang & Sennrich 2019); a mixture of experts in the place of the feed-forward layer: Jiang et al. 2024, "Mixtral of Experts".
"""

import dataclasses
from typing import Any

from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.dropout import check_rate, dropout
from moejax.core.outputs import LayerOutput
from moejax.core.rng import maybe_named, named
from moejax.layers.block import check_causal
from moejax.layers.causal_attention import CausalAttention
from moejax.layers.feed_forward import FeedForward
from moejax.layers.key_value_cache import KeyValues
from moejax.layers.mixer import apply_mixer, init_mixer
from moejax.layers.moe import MoE
from moejax.layers.norms import RMSNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderBlock:
    """x + attention(norm(x)), then x + mixer(norm(x)). mixer: a dense FeedForward, or an MoE with a causal router.

    norm_epsilon: of both norms. dropout_rate: rate on the output of both branches.
    """

    attention: CausalAttention
    mixer: FeedForward | MoE
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        check_rate("dropout_rate", self.dropout_rate)
        if isinstance(self.mixer, MoE):
            check_causal(self.mixer)
        _ = self._norm  # its own check

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[dict[str, Any], Any]:
        """Parameters {'norm_1', 'attention', 'norm_2', 'moe' or 'feed_forward'} and the router's state ({} if dense)."""
        params: dict[str, Any] = {"norm_1": self._norm.init(dim), "norm_2": self._norm.init(dim)}
        params["attention"] = self.attention.init(named(key, "attention"), dim)
        mixer, state = init_mixer(self.mixer, key, dim)
        return params | mixer, state

    def apply(
        self,
        params: dict[str, Any],
        state: Any,
        x: Float[Array, "B T D"],
        *,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "B T"] | None = None,
    ) -> LayerOutput:
        """The block's output, with state, losses, metrics and plan of its MoE layer, and its tokens before the mixer."""
        normed = self._norm.apply(params["norm_1"], x)
        branch = self.attention.apply(params["attention"], normed, key=maybe_named(key, "attention"))
        return self._mixed(params, state, x, branch, key, token_ids)

    def prefill(
        self,
        params: dict[str, Any],
        state: Any,
        x: Float[Array, "B T D"],
        lengths: Int[Array, "B"],
        *,
        cache_length: int,
        token_ids: Int[Array, "B T"] | None = None,
    ) -> tuple[LayerOutput, KeyValues]:
        """`apply` without a key, and the attention's cache of the first `lengths` tokens of each sequence."""
        normed = self._norm.apply(params["norm_1"], x)
        branch, cache = self.attention.prefill(params["attention"], normed, lengths, cache_length=cache_length)
        return self._mixed(params, state, x, branch, None, token_ids), cache

    def step(
        self,
        params: dict[str, Any],
        state: Any,
        x: Float[Array, "B 1 D"],
        cache: KeyValues,
        positions: Int[Array, "B"],
        *,
        token_ids: Int[Array, "B 1"] | None = None,
    ) -> tuple[LayerOutput, KeyValues]:
        """One token more of every sequence, at `positions`, and the cache after it."""
        normed = self._norm.apply(params["norm_1"], x)
        branch, cache = self.attention.step(params["attention"], normed, cache, positions)
        return self._mixed(params, state, x, branch, None, token_ids), cache

    def _mixed(
        self,
        params: dict[str, Any],
        state: Any,
        x: Float[Array, "B T D"],
        branch: Float[Array, "B T D"],
        key: PRNGKeyArray | None,
        token_ids: Int[Array, "B T"] | None,
    ) -> LayerOutput:
        x = x + dropout(branch, self.dropout_rate, key=maybe_named(key, "attention_dropout"))
        hidden = self._norm.apply(params["norm_2"], x)
        out = apply_mixer(self.mixer, params, state, hidden, key=key, token_ids=token_ids)
        tokens = x + dropout(out.tokens, self.dropout_rate, key=maybe_named(key, "mixer_dropout"))
        return dataclasses.replace(out, tokens=tokens, shortcut=x)

    @property
    def _norm(self) -> RMSNorm:
        return RMSNorm(epsilon=self.norm_epsilon)
