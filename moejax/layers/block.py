"""The transformer block: attention and a feed-forward or mixture-of-experts layer, each normed before and added after."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.dropout import check_rate, dropout
from moejax.core.errors import SpecError
from moejax.core.outputs import LayerOutput
from moejax.core.rng import maybe_named, named
from moejax.layers.attention import Attention
from moejax.layers.drop_path import drop_path
from moejax.layers.feed_forward import FeedForward
from moejax.layers.mixer import apply_mixer, init_mixer
from moejax.layers.moe import MoE
from moejax.layers.norms import LayerNorm

_NORM = LayerNorm()


def check_causal(moe: MoE) -> None:
    """Raises SpecError when the router of `moe` may look at later tokens, so that a decoder must not use it."""
    if not moe.router.causal:
        raise SpecError(
            f"router {type(moe.router).__module__.rpartition('.')[2]!r} ({type(moe.router).__name__}) lets a token's "
            "plan depend on later tokens, which a causal model would leak; use a router that decides for each token "
            "alone, such as 'top_k' without batch priority, or 'hash'."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """x + attention(norm(x)), then x + mixer(norm(x)). mixer: a dense FeedForward or an MoE.

    dropout_rate: rate on the output of both branches.
    Source: Dosovitskiy et al. 2021, equations 2 and 3 (pre-norm); V-MoE and Soft MoE replace the mixer.
    """

    attention: Attention
    mixer: FeedForward | MoE
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        check_rate("dropout_rate", self.dropout_rate)
        if isinstance(self.mixer, MoE) and self.attention.causal:
            check_causal(self.mixer)

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[dict[str, Any], Any]:
        """Parameters {'norm_1', 'attention', 'norm_2', 'moe' or 'feed_forward'} and the router's state ({} if dense)."""
        params: dict[str, Any] = {"norm_1": _NORM.init(dim), "norm_2": _NORM.init(dim)}
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
        drop_path_rate: Float[Array, ""] | float | None = None,
    ) -> LayerOutput:
        """The block's output, with state, losses, metrics and plan of its MoE layer, and its tokens before the mixer.

        drop_path_rate: None for none.
        """
        branch = self.attention.apply(
            params["attention"], _NORM.apply(params["norm_1"], x), key=maybe_named(key, "attention")
        )
        x = x + self._regularise(branch, "attention", key, drop_path_rate)
        hidden = _NORM.apply(params["norm_2"], x)
        out = apply_mixer(self.mixer, params, state, hidden, key=key, token_ids=token_ids)
        tokens = x + self._regularise(out.tokens, "mixer", key, drop_path_rate)
        return dataclasses.replace(out, tokens=tokens, shortcut=x)

    def _regularise(
        self, branch: Float[Array, "B T D"], name: str, key: PRNGKeyArray | None, rate: Any
    ) -> Float[Array, "B T D"]:
        branch = dropout(branch, self.dropout_rate, key=maybe_named(key, f"{name}_dropout"))
        return branch if rate is None else drop_path(branch, rate, key=maybe_named(key, f"{name}_drop_path"))
