"""The shared leaf: one kernel that every expert of a bank uses, stored once.

Source: ours (a bank's shared projections; its experts differ in what stands beside them).
"""

import dataclasses
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Layout
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish
from moejax.linear.layout_products import only_owned, times_shared


@flax.struct.dataclass
class Shared:
    """The kernel [D F] of all experts alike, without an expert axis.

    num_experts: of the bank, so that `materialise` can tell their number; None for one layer alone, or when nobody asks.
    """

    kernel: Annotated[Any, Float[Array, "D F"]]
    num_experts: int | None = flax.struct.field(pytree_node=False, default=None)

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product of x and the kernel, in the dtype of x. FLOPs: 2 D F per row."""
        return x @ self.kernel.astype(x.dtype)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times the kernel, plus its own expert's bias, through the activation. FLOPs: 2 D F per row."""
        return finish(only_owned(times_shared(x, self.kernel)), bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> Dense:
        """One kernel per group, the weighted sum over experts: the kernel times the sum of the weights."""
        total = jnp.sum(weight, axis=1).astype(self.kernel.dtype)
        return Dense(total[:, None, None] * self.kernel[None])

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel, E times when the number of experts is known."""
        if self.num_experts is None:
            return self.kernel
        return jnp.broadcast_to(self.kernel, (self.num_experts, *self.kernel.shape))

    def cleared(self) -> "Shared":
        """The same kernel without the number of experts."""
        return dataclasses.replace(self, num_experts=None)

    def take(self, index: Any) -> "Shared":
        """The bank whose expert i is expert index[i] of this one."""
        return self if self.num_experts is None else dataclasses.replace(self, num_experts=len(index))

    def num_params(self) -> int:
        """D F, however many experts there are."""
        return self.kernel.size

    def flops_per_row(self) -> int:
        """2 D F."""
        return 2 * self.kernel.shape[-2] * self.kernel.shape[-1]

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """The kernel."""
        return ("kernel",)


def _example(draw: Any, num_experts: int) -> Shared:
    return Shared(draw(6, 5), num_experts)


EXAMPLES = (_example,)
