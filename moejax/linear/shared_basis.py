"""The shared-basis leaf: each expert's kernel is its own factor times a non-linear mixture of bases that all share.

Source: Chen et al. 2025, "MoBE: Mixture-of-Basis-Experts for Compressing MoE-based LLMs": W_e = A_e f(sum_j
    alpha_ej B_j) for kernels [F D], which multiply from the left.
"""

from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.layouts import Layout
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank

FUNCTIONS = {"identity": lambda x: x, "silu": jax.nn.silu, "tanh": jnp.tanh}
SIDES = ("input", "output")


@flax.struct.dataclass
class SharedBasis:
    """The kernel f(sum_j alpha_j basis_j) own (side 'input'), or own f(sum_j alpha_j basis_j) (side 'output').

    Side 'input': basis [N D R] shared, own [E R F]. A kernel here is the transpose of MoBE's, so this side is the paper's:
    its A_e is own_e transposed, its B_j basis_j transposed. Side 'output': own [E D R], basis [N R F] shared.
    alpha: [E N]; `convex`: through a softmax over the bases first, so that any numbers give a convex mixture.
    function: f, of FUNCTIONS, entry by entry. The mixture is put together once per call, in the dtype of the arrays, and
    takes the memory of E factors; the kernel itself is never made.
    """

    own: Annotated[Any, Float[Array, "..."]]
    alpha: Annotated[Any, Float[Array, "... N"]]
    basis: Annotated[Any, Float[Array, "..."]]
    function: str = flax.struct.field(pytree_node=False, default="silu")
    side: str = flax.struct.field(pytree_node=False, default="input")
    convex: bool = flax.struct.field(pytree_node=False, default=False)

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product of x and both factors, one after the other. FLOPs: 2 R (D + F) per row, and `flops_once`."""
        return self.low_rank().matmul(x)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs as of `matmul`."""
        return self.low_rank().grouped_matmul(x, bias=bias, activation=activation)

    def mix(self, weight: Float[Array, "G E"]) -> LowRank | Dense:
        """One kernel per group, the weighted sum over experts: low-rank of rank E R, dense where that is no more numbers."""
        return self.low_rank().mix(weight)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel."""
        return self.low_rank().materialise()

    def low_rank(self) -> LowRank:
        """The same kernels as two factors each: the mixture of the bases, and the expert's own."""
        mixture = self.mixture()
        return LowRank(mixture, self.own) if self._checked_side() == "input" else LowRank(self.own, mixture)

    def mixture(self) -> Float[Array, "..."]:
        """The factor f(sum_j alpha_j basis_j) of each expert: [E D R] or [E R F], by the side. Raises SpecError for another f."""
        if self.function not in FUNCTIONS:
            raise SpecError(f"function={self.function!r} is unknown.{did_you_mean(self.function, FUNCTIONS)}")
        alpha = jax.nn.softmax(self.alpha, axis=-1) if self.convex else self.alpha
        return FUNCTIONS[self.function](jnp.einsum("...N,Nij->...ij", alpha, self.basis))

    def num_params(self) -> int:
        """N D R + E (N + R F) (side 'input'), or N R F + E (N + D R)."""
        return self.own.size + self.alpha.size + self.basis.size

    def flops_per_row(self) -> int:
        """2 R (D + F)."""
        return 2 * (self.own.shape[-2] * self.own.shape[-1] + self.basis.shape[-2] * self.basis.shape[-1])

    def flops_once(self) -> int:
        """2 N D R (side 'input') or 2 N R F for the mixture of one expert."""
        return 2 * self.alpha.shape[-1] * self.basis.shape[-2] * self.basis.shape[-1]

    def shared_fields(self) -> tuple[str, ...]:
        """The bases."""
        return ("basis",)

    def _checked_side(self) -> str:
        if self.side not in SIDES:
            raise SpecError(f"side={self.side!r} is unknown.{did_you_mean(self.side, SIDES)}")
        return self.side


def _example_input_side(draw: Any, num_experts: int) -> SharedBasis:
    return SharedBasis(draw(num_experts, 3, 5), draw(num_experts, 4), draw(4, 6, 3))


def _example_output_side(draw: Any, num_experts: int) -> SharedBasis:
    arrays = draw(num_experts, 6, 3), draw(num_experts, 4), draw(4, 3, 5)
    return SharedBasis(*arrays, function="tanh", side="output", convex=True)


EXAMPLES = (_example_input_side, _example_output_side)
