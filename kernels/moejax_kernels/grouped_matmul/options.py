"""What every implementation is told beside its operands."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """implementation: its name. tiling: sizes of tiles, as the implementation reads them; None takes its tuned table.

    precision: of products, as for `jax.lax.dot_general`. dtype: of the output; sums are kept in float32 at least.
    interpret: False, True, or the interpreter's parameters (Pallas implementations only).
    """

    implementation: str
    dtype: jnp.dtype
    tiling: tuple[int, ...] | None = None
    precision: str | jax.lax.Precision | None = None
    interpret: Any = False
