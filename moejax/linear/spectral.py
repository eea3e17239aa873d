"""The spectral leaf: a kernel in its own singular basis, of which only a shift of the singular values is trained.

Source: Han et al. 2023, "SVDiff: Compact Parameter Space for Diffusion Fine-Tuning", equation 1; Sun et al. 2024,
    "SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values", section 3.
Deviations: SVFit trains the r largest singular values themselves; here they are spectrum + shift with the shift trained,
    which moves in the same way (the gradients are equal), and can be taken back or added to another.
"""

import dataclasses
from typing import Annotated, Any, ClassVar

import flax.struct
import jax
from jaxtyping import Array, Float

from moejax.core.layouts import Layout
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish
from moejax.linear.layout_products import plus
from moejax.linear.low_rank import LowRank


@flax.struct.dataclass
class Spectral:
    """The kernel u diag(relu(spectrum + shift)) v + residual; relu where `rectified` (SVDiff), none without it (SVFit).

    u [D R], spectrum [R], shift [R], v [R F], residual [D F] or None, each with a leading E in a bank. Only the shift gets a
    gradient; that of the frozen arrays is exactly zero. Shifts of several tunings of one kernel may be added.
    """

    FROZEN: ClassVar[tuple[str, ...]] = ("u", "spectrum", "v", "residual")

    u: Annotated[Any, Float[Array, "... D R"]]
    spectrum: Annotated[Any, Float[Array, "... R"]]
    shift: Annotated[Any, Float[Array, "... R"]]
    v: Annotated[Any, Float[Array, "... R F"]]
    residual: Annotated[Any, Float[Array, "... D F"]] = None
    rectified: bool = flax.struct.field(pytree_node=False, default=True)

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product x u diag(...) v, plus x residual. FLOPs: 2 R (D + F) per row, and 2 D F with a residual."""
        return matmul_beside(self.low_rank(), self.residual, x)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs as of `matmul`."""
        return grouped_matmul_beside(self.low_rank(), self.residual, x, bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> LowRank | Dense:
        """One kernel per group, the weighted sum over experts: low-rank of rank E R, dense with a residual."""
        return self.low_rank().mix(weight) if self.residual is None else Dense(self.materialise()).mix(weight)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel."""
        return materialise_beside(self.low_rank(), self.residual)

    def low_rank(self) -> LowRank:
        """What the spectrum holds, without the residual; the scale goes to v."""
        u, spectrum, v = (jax.lax.stop_gradient(array) for array in (self.u, self.spectrum, self.v))
        scale = spectrum + self.shift
        return LowRank(u, (jax.nn.relu(scale) if self.rectified else scale)[..., None] * v)

    def num_params(self) -> int:
        """R (D + F + 2) per expert, and D F with a residual; trained are R."""
        return sum(array.size for array in jax.tree.leaves(self))

    def flops_per_row(self) -> int:
        """2 R (D + F), and 2 D F with a residual."""
        return flops_beside(self.low_rank_shape(), self.residual)

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """None."""
        return ()

    def low_rank_shape(self) -> tuple[int, int, int]:
        """(D, R, F)."""
        return self.u.shape[-2], self.u.shape[-1], self.v.shape[-1]


def matmul_beside(leaf: LowRank, residual: Array | None, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
    """The product of x and a low-rank kernel, plus that of x and a frozen one beside it."""
    if residual is None:
        return leaf.matmul(x)
    return leaf.matmul(x) + Dense(jax.lax.stop_gradient(residual)).matmul(x)


def grouped_matmul_beside(
    leaf: LowRank, residual: Array | None, x: Layout, bias: Float[Array, "E F"] | None, activation: str | None
) -> Layout:
    """Each row times its own expert's low-rank kernel and the frozen one beside it, biased and activated."""
    if residual is None:
        return leaf.grouped_matmul(x, bias=bias, activation=activation)
    frozen = Dense(jax.lax.stop_gradient(residual)).grouped_matmul(x)
    return finish(plus(leaf.grouped_matmul(x), frozen), bias, activation)


def materialise_beside(leaf: LowRank, residual: Array | None) -> Float[Array, "... D F"]:
    """Both kernels as one."""
    kernel = leaf.materialise()
    return kernel if residual is None else kernel + jax.lax.stop_gradient(residual)


def flops_beside(shape: tuple[int, int, int], residual: Array | None) -> int:
    """FLOPs per row of a low-rank kernel (D, R, F) and what is beside it."""
    depth, rank, width = shape
    return 2 * rank * (depth + width) + (0 if residual is None else 2 * depth * width)


def _example(draw: Any, num_experts: int) -> Spectral:
    return Spectral(draw(num_experts, 6, 3), draw(num_experts, 3), draw(num_experts, 3), draw(num_experts, 3, 5))


def _example_with_residual(draw: Any, num_experts: int) -> Spectral:
    return dataclasses.replace(_example(draw, num_experts), residual=draw(num_experts, 6, 5), rectified=False)


EXAMPLES = (_example, _example_with_residual)
