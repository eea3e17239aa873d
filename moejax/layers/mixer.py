"""The second half of a block: a dense feed-forward layer or a mixture of experts, behind one pair of functions.

Source: ours.
"""

from typing import Any

from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.outputs import LayerOutput
from moejax.core.rng import maybe_named, named
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE


def init_mixer(mixer: FeedForward | MoE, key: PRNGKeyArray, dim: int) -> tuple[dict[str, Any], Any]:
    """Parameters {'moe'} or {'feed_forward'} for tokens of width `dim`, and the router's state ({} if dense)."""
    if isinstance(mixer, MoE):
        params, state = mixer.init(named(key, "moe"), dim)
        return {"moe": params}, state
    return {"feed_forward": mixer.init(named(key, "feed_forward"), dim)}, {}


def apply_mixer(
    mixer: FeedForward | MoE,
    params: dict[str, Any],
    state: Any,
    x: Float[Array, "B T D"],
    *,
    key: PRNGKeyArray | None = None,
    token_ids: Int[Array, "B T"] | None = None,
) -> LayerOutput:
    """The mixer's output, with state, losses, metrics and plan where it is an MoE. params: of the whole block."""
    mixer_key = maybe_named(key, "mixer")
    if isinstance(mixer, MoE):
        return mixer.apply(params["moe"], state, x, key=mixer_key, token_ids=token_ids)
    return LayerOutput(tokens=mixer.apply(params["feed_forward"], x, key=mixer_key), state=state, losses={}, metrics={})
