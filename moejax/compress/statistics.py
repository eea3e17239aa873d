"""What the methods know about data: sums over calibration rows and examples, per leaf and per expert.

All fields are sums, so that parts of the data, or of a mesh, merge by addition; `rows` is a sample and merges by
concatenation. A field that no method asked for is None.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError

KINDS = {
    "second_moment": ("count", "second_moment"),
    "absolute": ("count", "absolute"),
    "output": ("count", "output_sum", "output_square"),
    "rows": ("count", "rows"),
    "fisher": ("examples", "fisher"),
    "fisher_rows": ("examples", "fisher_rows"),
    "kronecker": ("examples", "kronecker_in", "kronecker_out"),
}


@flax.struct.dataclass
class LeafStatistics:
    """Sums for one kernel [D F]; for a bank [E D F] every field has a leading E.

    count []: rows that are not all zero, as padding is. second_moment [D D]: of x x^T. absolute [D]: of |x|.
    output_sum [F], output_square [F]: of x w and of its square. rows [N D]: some of the rows x; in a bank,
    experts that have fewer end with zeros.
    examples []: gradients G [D F], one per example. fisher [D F]: of G^2. fisher_rows [D]: of G^2 over rows of the kernel,
    the sum over F. kronecker_in [D D], kronecker_out [F F]: of G B G^T and G^T A G, where B and A are those of
    the pass before (identities in the first).
    """

    count: Annotated[Any, Float[Array, "..."]] = None
    second_moment: Annotated[Any, Float[Array, "... D D"]] = None
    absolute: Annotated[Any, Float[Array, "... D"]] = None
    output_sum: Annotated[Any, Float[Array, "... F"]] = None
    output_square: Annotated[Any, Float[Array, "... F"]] = None
    rows: Annotated[Any, Float[Array, "... N D"]] = None
    examples: Annotated[Any, Float[Array, "..."]] = None
    fisher: Annotated[Any, Float[Array, "... D F"]] = None
    fisher_rows: Annotated[Any, Float[Array, "... D"]] = None
    kronecker_in: Annotated[Any, Float[Array, "... D D"]] = None
    kronecker_out: Annotated[Any, Float[Array, "... F F"]] = None

    def merge(self, other: "LeafStatistics") -> "LeafStatistics":
        """Of both parts of the data together. Raises ValueError where one lacks what the other has."""
        merged: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if (mine is None) != (theirs is None):
                raise ValueError(f"{field.name} is in one of the two statistics only; collect the same kinds in both.")
            if mine is None:
                merged[field.name] = None
            else:
                merged[field.name] = jnp.concatenate([mine, theirs], -2) if field.name == "rows" else mine + theirs
        return LeafStatistics(**merged)

    def expert(self, index: int) -> "LeafStatistics":
        """Those of one expert of a bank."""
        return jax.tree.map(lambda leaf: leaf[index], self)


Statistics = Mapping[str, LeafStatistics]  # by the name of the weight, such as 'blocks/05/moe/experts/up'


def from_rows(x: Any, *, num_rows: int = 256) -> LeafStatistics:
    """Of the rows x [N D] that a kernel [D F] multiplies, or [E N D] for a bank: all kinds that need no gradients or outputs.

    Rows of zeros are padding and do not count. The sums are float64 on the host. num_rows: how many are kept, spread evenly
    over x; 0 keeps none (merging such statistics needs no more memory). Raises SpecError for rows that are not finite, or
    of other than two or three axes.
    """
    rows = np.asarray(x).astype(np.float64)
    if rows.ndim not in (2, 3):
        raise SpecError(f"rows of shape {rows.shape} must be [N D], or [E N D] for a bank; fold batch and time into N.")
    if not np.all(np.isfinite(rows)):
        raise SpecError(f"rows of shape {rows.shape} hold NaN or infinite values; look at the data behind them.")
    kept = np.linspace(0, rows.shape[-2] - 1, min(num_rows, rows.shape[-2])).round().astype(int)
    return LeafStatistics(
        count=np.sum(np.any(rows != 0, axis=-1), axis=-1, dtype=np.float64),
        second_moment=np.swapaxes(rows, -1, -2) @ rows,
        absolute=np.sum(np.abs(rows), axis=-2),
        rows=rows[..., kept, :] if num_rows else None,
    )
