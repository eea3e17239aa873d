"""The transformer block whose norms are shifted, scaled and gated by a vector per example (adaLN-Zero)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.outputs import LayerOutput
from moejax.core.rng import maybe_named, named
from moejax.layers.attention import Attention
from moejax.layers.feed_forward import FeedForward
from moejax.layers.mixer import apply_mixer, init_mixer
from moejax.layers.moe import MoE
from moejax.layers.norms import LayerNorm
from moejax.layers.projection import init_projection, project

_NORM = LayerNorm(use_scale=False, use_bias=False)


def init_modulation(key: PRNGKeyArray, dim: int, count: int) -> dict[str, Any]:
    """{'modulation': Dense [D, count D], 'modulation_bias'}, all zero."""
    return init_projection(key, "modulation", (dim, count * dim), jax.nn.initializers.zeros)


def modulation(params: dict[str, Any], condition: Float[Array, "B D"], count: int) -> list[Float[Array, "B 1 D"]]:
    """`count` vectors per example from its condition: one linear map after SiLU."""
    values = project(params, "modulation", jax.nn.silu(condition))
    return jnp.split(values[:, None, :], count, axis=-1)


def modulated_norm(
    x: Float[Array, "B T D"], shift: Float[Array, "B 1 D"], scale: Float[Array, "B 1 D"]
) -> Float[Array, "B T D"]:
    """norm(x) (1 + scale) + shift; the norm has no parameters of its own."""
    return _NORM.apply({}, x) * (jnp.ones_like(scale) + scale) + shift


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptiveBlock:
    """x + gate attention(norm(x)), then x + gate mixer(norm(x)); mixer: a dense FeedForward or an MoE.

    Six vectors per example come from its condition: shift, scale and gate of the attention, then those of the mixer. They
    start at zero, so that a new block is the identity.
    Source: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", section 3.2 ("adaLN-Zero block"); the
        mixture in the mixer's place: Fei et al. 2024, "Scaling Diffusion Transformers to 16 Billion Parameters".
    """

    attention: Attention
    mixer: FeedForward | MoE

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[dict[str, Any], Any]:
        """Parameters {'modulation', 'modulation_bias', 'attention', 'moe' or 'feed_forward'} and the router's state."""
        params: dict[str, Any] = init_modulation(key, dim, 6)
        params["attention"] = self.attention.init(named(key, "attention"), dim)
        mixer, state = init_mixer(self.mixer, key, dim)
        return params | mixer, state

    def apply(
        self,
        params: dict[str, Any],
        state: Any,
        x: Float[Array, "B T D"],
        condition: Float[Array, "B D"],
        time: Float[Array, " B"] | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> LayerOutput:
        """The block's output, with state, losses, metrics and plan of its MoE layer.

        time: in the unit of the model's embedding; routers that read it get it, in whole steps, as the ids of tokens.
        """
        shift, scale, gate, mixer_shift, mixer_scale, mixer_gate = modulation(params, condition, 6)
        hidden = modulated_norm(x, shift, scale)
        x = x + gate * self.attention.apply(params["attention"], hidden, key=maybe_named(key, "attention"))
        hidden, ids = modulated_norm(x, mixer_shift, mixer_scale), None
        if time is not None and isinstance(self.mixer, MoE) and getattr(self.mixer.router, "reads_time", False):
            step = jnp.floor(time + 1e-3)  # a chain's steps are whole but for rounding
            ids = jnp.broadcast_to(step.astype(jnp.int32)[:, None], x.shape[:2])
        out = apply_mixer(self.mixer, params, state, hidden, key=key, token_ids=ids)
        return dataclasses.replace(out, tokens=x + mixer_gate * out.tokens)
