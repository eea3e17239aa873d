"""What every implementation is told beside its operands."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from moejax_kernels.platforms import choose_implementation


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

    @property
    def accumulator(self) -> jnp.dtype:
        """The dtype that sums are kept in: float32, or float64 for a float64 output."""
        return accumulator_of(self.dtype)


def accumulator_of(dtype: Any) -> jnp.dtype:
    """float64 for float64, else float32."""
    return jnp.dtype(jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32)


def options_for(
    implementation: str | None,
    known: tuple[str, ...],
    *,
    dtype: Any,
    preferred_element_type: Any = None,
    tiling: tuple[int, ...] | None = None,
    precision: str | jax.lax.Precision | None = None,
    interpret: Any = False,
) -> Options:
    """What an entry's settings mean for operands of `dtype`. Raises ValueError as `platforms.choose_implementation`."""
    name = choose_implementation(implementation, known, dtype, interpret=interpret)
    output = jnp.dtype(preferred_element_type or dtype)
    return Options(implementation=name, dtype=output, tiling=tiling, precision=precision, interpret=interpret)
