"""Layouts: how tokens lie in memory when an expert bank computes on them. A bank knows nothing else."""

from typing import Annotated, Any

import flax.struct
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class Buffers:
    """One equally long buffer per expert. Slots that no token fills hold zeros on the way in."""

    tokens: Annotated[Any, Float[Array, "E C D"]]


@flax.struct.dataclass
class Ragged:
    """Rows sorted by expert, as many per expert as there are. Rows after the last group belong to nobody and are zero."""

    tokens: Annotated[Any, Float[Array, "M D"]]
    group_sizes: Annotated[Any, Int[Array, "E"]]


Layout = Buffers | Ragged
