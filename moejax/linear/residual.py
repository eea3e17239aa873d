"""The residual leaf: a core that all experts share, plus what is each expert's own.

Source: Wu et al. 2022, "Residual Mixture of Experts", the decomposition W_e = W_core + R_e.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Layout
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish
from moejax.linear.expert_axis import take_experts
from moejax.linear.layout_products import only_owned, times_shared
from moejax.linear.low_rank import LowRank


@flax.struct.dataclass
class Residual:
    """The kernel core + residual: core [D F] shared by all, residual a leaf of the experts' own, such as Dense or LowRank.

    Names in trees end in '/core' for the one and hold '/residual/' for the other: '/core$' freezes all cores.
    """

    core: Annotated[Any, Float[Array, "D F"]]
    residual: Any

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The products of x with both, summed. FLOPs: `flops_per_row`."""
        if isinstance(self.residual, Dense):
            return self._summed().matmul(x)
        return x @ self.core.astype(x.dtype) + self.residual.matmul(x)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times core + its own expert's residual, plus its bias, through the activation. FLOPs: `flops_per_row`."""
        if isinstance(self.residual, Dense):
            return self._summed().grouped_matmul(x, bias=bias, activation=activation)
        rows = only_owned(times_shared(x, self.core)).tokens + self.residual.grouped_matmul(x).tokens
        return finish(dataclasses.replace(x, tokens=rows), bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> Dense:
        """One kernel per group, the weighted sum over experts, dense."""
        total = jnp.sum(weight, axis=1).astype(self.core.dtype)
        return Dense(total[:, None, None] * self.core[None] + self.residual.mix(weight).materialise())

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel core + residual."""
        residual = self.residual.materialise()
        return jnp.broadcast_to(self.core, residual.shape) + residual

    def take(self, index: Sequence[int]) -> "Residual":
        """The bank whose expert i is expert index[i] of this one."""
        return dataclasses.replace(self, residual=take_experts(self.residual, index))

    def cleared(self) -> "Residual":
        """The same kernels without static numbers per expert."""
        return (
            dataclasses.replace(self, residual=self.residual.cleared()) if hasattr(self.residual, "cleared") else self
        )

    def num_params(self) -> int:
        """D F of the core, and the residual's numbers."""
        return self.core.size + self.residual.num_params()

    def flops_per_row(self) -> int:
        """2 D F, and for a residual that is not dense its own: a dense one is added to the core before rows are met."""
        own = 0 if isinstance(self.residual, Dense) else self.residual.flops_per_row()
        return 2 * self.core.shape[-2] * self.core.shape[-1] + own

    def flops_once(self) -> int:
        """What the residual puts together before rows are met: sums are no products."""
        return self.residual.flops_once()

    def shared_fields(self) -> tuple[str, ...]:
        """The core."""
        return ("core",)

    def _summed(self) -> Dense:
        return Dense(self.materialise())


def _example_dense(draw: Any, num_experts: int) -> Residual:
    return Residual(draw(6, 5), Dense(draw(num_experts, 6, 5)))


def _example_low_rank(draw: Any, num_experts: int) -> Residual:
    ranks = tuple(e % 3 for e in range(num_experts))
    return Residual(draw(6, 5), LowRank(draw(num_experts, 6, 2), draw(num_experts, 2, 5), ranks))


EXAMPLES = (_example_dense, _example_low_rank)
