"""The shared-factor leaf: low-rank kernels of which all experts share one side.

Source: Liu et al. 2025, "Beyond Standard MoE: Mixture of Latent Experts for Resource-Efficient Language Models" (the
    shared projection to a latent space, W_e = A_e B on kernels [F D], here u [D R] shared and v_e [R F]); ours (the other
    side, and the leaf).
"""

import dataclasses
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish
from moejax.linear.layout_products import times_shared
from moejax.linear.low_rank import LowRank


@flax.struct.dataclass
class SharedFactor:
    """The kernel u v: u [D R] shared and v [E R F], or u [E D R] and v [R F] shared; of one layer alone u [D R], v [R F].

    Where both carry the expert axis (a bank made of one layer does) nothing is shared, and the leaf is a `LowRank`.
    """

    u: Annotated[Any, Float[Array, "... D R"]]
    v: Annotated[Any, Float[Array, "... R F"]]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product (x u) v. FLOPs: 2 R (D + F) per row."""
        return LowRank(self.u, self.v).matmul(x)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs: 2 R (D + F) per row."""
        shared = self._checked()
        if shared == ("u",):
            return Dense(self.v).grouped_matmul(times_shared(x, self.u), bias=bias, activation=activation)
        if shared == ("v",):
            return finish(times_shared(Dense(self.u).grouped_matmul(x), self.v), bias, activation)
        return LowRank(self.u, self.v).grouped_matmul(x, bias=bias, activation=activation)

    def mix(self, weight: Float[Array, "G E"]) -> "SharedFactor | LowRank | Dense":
        """One kernel per group, the weighted sum over experts: of the factor that they do not share."""
        shared = self._checked()
        if shared == ("u",):
            return dataclasses.replace(self, v=Dense(self.v).mix(weight).kernel)
        if shared == ("v",):
            return dataclasses.replace(self, u=Dense(self.u).mix(weight).kernel)
        return LowRank(self.u, self.v).mix(weight)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel u v."""
        return jnp.matmul(self.u, self.v)

    def num_params(self) -> int:
        """R (E D + F) or R (D + E F), by the side that is shared."""
        return self.u.size + self.v.size

    def flops_per_row(self) -> int:
        """2 R (D + F)."""
        return 2 * self.u.shape[-1] * (self.u.shape[-2] + self.v.shape[-1])

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """The factor with one axis less than the other, also where layers are stacked."""
        if self.u.ndim == self.v.ndim:
            return ()
        return ("u",) if self.u.ndim < self.v.ndim else ("v",)

    def _checked(self) -> tuple[str, ...]:
        if {self.u.ndim, self.v.ndim} not in ({2, 3}, {3}):
            raise SpecError(
                f"u {self.u.shape} and v {self.v.shape} are no bank: one of them, or both, must carry the expert axis."
            )
        return self.shared_fields()


def _example_input_side(draw: Any, num_experts: int) -> SharedFactor:
    return SharedFactor(draw(6, 3), draw(num_experts, 3, 5))


def _example_output_side(draw: Any, num_experts: int) -> SharedFactor:
    return SharedFactor(draw(num_experts, 6, 3), draw(3, 5))


EXAMPLES = (_example_input_side, _example_output_side)
