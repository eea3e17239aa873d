"""What a layer with experts returns beside its tokens. Losses and metrics are returned, never stored."""

from typing import Annotated, Any

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class LayerOutput:
    """Output of one layer.

    tokens: what the layer computed. state: router state after the call ({} for layers without).
    losses, metrics: as in `Routed`, the dispatcher's accounting added. plan: the router's plan, None for dense layers.
    shortcut: of a block, the tokens between its attention and its mixer, for a next block that reads them; None: it has none.
    """

    tokens: Annotated[Any, Float[Array, "B T D"]]
    state: Any
    losses: Annotated[Any, dict[str, Float[Array, ""]]]
    metrics: Annotated[Any, dict[str, Float[Array, "..."]]]
    plan: Any = None
    shortcut: Annotated[Any, Float[Array, "B T D"] | None] = None


@flax.struct.dataclass
class ModelOutput:
    """Output of a classifier.

    logits: float32. features: what the head reads. state: model state after the call, of the structure given to it.
    losses: each router loss, the mean over the layers that have it, already weighted. metrics: 'block_05/load' ...
    plans: 'block_05' -> Plan of every MoE layer; empty unless asked for.
    """

    logits: Annotated[Any, Float[Array, "B N"]]
    features: Annotated[Any, Float[Array, "B D"]]
    state: Any
    losses: Annotated[Any, dict[str, Float[Array, ""]]]
    metrics: Annotated[Any, dict[str, Float[Array, "..."]]]
    plans: Annotated[Any, dict[str, Any]]


@flax.struct.dataclass
class DenoiserOutput:
    """Output of a diffusion model, float32.

    prediction: what the model was trained to predict, of the shape of its input. variance: where it is learned, the
    interpolation between the two bounds of the reverse variance, about [-1, 1]; None without.
    state, losses, metrics, plans: as in `ModelOutput`.
    """

    prediction: Annotated[Any, Float[Array, "B height width channels"]]
    variance: Annotated[Any, Float[Array, "B height width channels"] | None]
    state: Any
    losses: Annotated[Any, dict[str, Float[Array, ""]]]
    metrics: Annotated[Any, dict[str, Float[Array, "..."]]]
    plans: Annotated[Any, dict[str, Any]]
