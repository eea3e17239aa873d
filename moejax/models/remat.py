"""What the backward pass keeps of a block and what it computes again, by name.

'none' keeps all that it needs. 'full' keeps the block's input alone and computes the block again. 'dots' keeps the results of
matrix products, and computes again what lies between them. 'exchange' keeps what came from other devices, so that nothing
travels twice, and computes the rest again.
Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 3, for 'full'; the others are ours, over the
    policies of `jax.checkpoint`.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax

Remat = Literal["none", "full", "dots", "exchange"]

# Kernels count as products: nothing else is written in Pallas that a block computes in a training step.
KEPT = {
    "dots": {"dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general", "pallas_call"},
    "exchange": {"all_to_all", "ragged_all_to_all", "ppermute", "all_gather", "reduce_scatter"},
}


def rematerialised(layer: Callable[..., Any], remat: Remat, *, alone: bool) -> Callable[..., Any]:
    """`layer`, whose backward pass keeps what `remat` says. alone: it is not the body of a scan."""
    if remat == "none":
        return layer
    return jax.checkpoint(layer, prevent_cse=alone, policy=policy(remat))


def policy(remat: Remat) -> Callable[..., bool] | None:
    """For `jax.checkpoint`; None keeps nothing."""
    kept = KEPT.get(remat)
    if kept is None:
        return None

    def keep(primitive: Any, *_: Any, **__: Any) -> bool:
        return primitive.name in kept

    return keep


def computed_again(remat: Remat) -> bool:
    """Whether the backward pass repeats the block's products: a fourth pass beside the forward one and the two of gradients."""
    return remat in ("full", "exchange")
