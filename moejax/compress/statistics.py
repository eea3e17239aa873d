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
from jaxtyping import Array, Float

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
    output_sum [F], output_square [F]: of x w and of its square. rows [N D]: some of the rows x.
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
        merged = {}
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
