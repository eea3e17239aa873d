"""The shared leaf: one affine map that every expert of a bank uses, without an expert axis.

Source: ours (a bank's shared projections and cores; its experts differ in what stands beside it).
"""

import dataclasses
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Layout, Ragged
from moejax.linear.epilogue import finish


@flax.struct.dataclass
class Shared:
    """x kernel + bias for the rows of all experts: kernel [D F], bias [F] or None. Computed in the dtype of x."""

    kernel: Annotated[Any, Float[Array, "D F"]]
    bias: Annotated[Any, Float[Array, "F"] | None] = None

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """X kernel + bias. FLOPs: 2 D F per row."""
        out = x @ self.kernel.astype(x.dtype)
        return out if self.bias is None else out + jnp.broadcast_to(self.bias.astype(x.dtype), out.shape)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """The same, plus a bias of each expert's own, through the activation. Rows of nobody stay zero."""
        rows = self.matmul(x.tokens)
        if self.bias is not None and isinstance(x, Ragged):
            owned = jnp.arange(rows.shape[0]) < jnp.sum(x.group_sizes)
            rows = jnp.where(owned[:, None], rows, jnp.zeros_like(rows))
        return finish(dataclasses.replace(x, tokens=rows), bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> "Shared":
        """Itself: the weights of a mixture of experts sum to one, and all experts hold the same."""
        del weight
        return self

    def materialise(self) -> Float[Array, "D F"]:
        """The kernel, once for all experts."""
        return self.kernel

    def num_params(self) -> int:
        """D F, and F with a bias, however many experts there are."""
        return self.kernel.size + (0 if self.bias is None else self.bias.size)

    def flops_per_row(self) -> int:
        """2 D F."""
        return 2 * self.kernel.shape[-2] * self.kernel.shape[-1]

    def flops_once(self) -> int:
        """None."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """All of it."""
        return ("kernel", "bias")
