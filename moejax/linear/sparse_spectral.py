"""The sparse spectral leaf: a frozen kernel plus a change that is sparse in the kernel's singular basis.

Source: Lingam et al. 2024, "SVFT: Parameter-Efficient Fine-Tuning with Singular Vectors", section 3: W + U M V^T with
    the patterns plain (diagonal), banded, random and top-k of M.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.linear.dense import Dense
from moejax.linear.expert_axis import take_arrays
from moejax.linear.low_rank import LowRank
from moejax.linear.spectral import flops_beside, grouped_matmul_beside, materialise_beside, matmul_beside


@flax.struct.dataclass
class SparseSpectral:
    """The kernel residual + u M v, M [R R2] zero but at the entries of the pattern, where it holds the coefficients.

    u [D R], coefficients [entries], v [R2 F], residual [D F] (the kernel before tuning), each with a leading E in a bank.
    pattern: positions row * R2 + column in M, each once; one tuple for all experts, or a tuple of E equally long ones. It
    is static: its hash, linear in its length, is taken at every call of a jitted function.
    Only the coefficients get a gradient; that of the frozen arrays is exactly zero.
    """

    FROZEN: ClassVar[tuple[str, ...]] = ("u", "v", "residual")

    u: Annotated[Any, Float[Array, "... D R"]]
    coefficients: Annotated[Any, Float[Array, "... entries"]]
    v: Annotated[Any, Float[Array, "... R2 F"]]
    residual: Annotated[Any, Float[Array, "... D F"]]
    pattern: tuple[Any, ...] = flax.struct.field(pytree_node=False)

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product x residual + x u M v. FLOPs: 2 (D F + R (D + F)) per row, and `flops_once`."""
        return matmul_beside(self.low_rank(), self.residual, x)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs as of `matmul`."""
        return grouped_matmul_beside(self.low_rank(), self.residual, x, bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> Dense:
        """One kernel per group, the weighted sum over experts, dense."""
        return Dense(self.materialise()).mix(weight)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel."""
        return materialise_beside(self.low_rank(), self.residual)

    def low_rank(self) -> LowRank:
        """The change u (M v) alone."""
        u, v = jax.lax.stop_gradient(self.u), jax.lax.stop_gradient(self.v)
        if self._is_diagonal():
            return LowRank(u, self.coefficients[..., None] * v)
        return LowRank(u, self.sparse() @ v)

    def sparse(self) -> Float[Array, "... R R2"]:
        """M, with its zeros. Raises SpecError when the pattern does not fit the arrays."""
        rows, columns = self.u.shape[-1], self.v.shape[-2]
        positions = self._positions()
        flat = jnp.zeros((*self.coefficients.shape[:-1], rows * columns), self.coefficients.dtype)
        where: Any = (..., positions) if positions.ndim == 1 else (np.arange(len(positions))[:, None], positions)
        flat = flat.at[where].set(self.coefficients, unique_indices=True)
        return flat.reshape(*flat.shape[:-1], rows, columns)

    def take(self, index: Sequence[int]) -> "SparseSpectral":
        """The bank whose expert i is expert index[i] of this one."""
        own = bool(self.pattern) and isinstance(self.pattern[0], tuple)
        pattern = tuple(self.pattern[i] for i in index) if own else self.pattern
        return dataclasses.replace(take_arrays(self, index), pattern=pattern)

    def cleared(self) -> "SparseSpectral":
        """The same kernels with one pattern for all experts: the union of theirs, where what is added holds zeros.

        These zeros are parameters like the others, and train: for a pattern that binds, cut no bank with patterns per expert.
        """
        positions = self._positions()
        if positions.ndim == 1:
            return self
        union = np.unique(positions)
        rows, columns = self.u.shape[-1], self.v.shape[-2]
        flat = self.sparse().reshape(-1, rows * columns)
        return dataclasses.replace(self, coefficients=flat[:, union], pattern=tuple(union.tolist()))

    def num_params(self) -> int:
        """D R + entries + R2 F + D F per expert; trained are the entries."""
        return sum(array.size for array in jax.tree.leaves(self))

    def flops_per_row(self) -> int:
        """2 R (D + F) + 2 D F."""
        return flops_beside((self.u.shape[-2], self.u.shape[-1], self.v.shape[-1]), self.residual)

    def flops_once(self) -> int:
        """2 R R2 F for M v; none for the diagonal."""
        return 0 if self._is_diagonal() else 2 * self.u.shape[-1] * self.v.shape[-2] * self.v.shape[-1]

    def shared_fields(self) -> tuple[str, ...]:
        """None."""
        return ()

    def _positions(self) -> np.ndarray:
        positions = np.asarray(self.pattern, np.int32)
        limit = self.u.shape[-1] * self.v.shape[-2]
        if positions.shape[-1] != self.coefficients.shape[-1] or (positions.size and positions.max() >= limit):
            raise SpecError(
                f"a pattern of shape {positions.shape} for coefficients {self.coefficients.shape} and M of {limit} entries; "
                "it needs one position below that per coefficient."
            )
        return positions

    def _is_diagonal(self) -> bool:
        rows, columns = self.u.shape[-1], self.v.shape[-2]
        return rows == columns and self.pattern == banded(rows, columns, 0)


def banded(rows: int, columns: int, width: int) -> tuple[int, ...]:
    """The positions of M [rows columns] at most `width` away from the diagonal; width 0 is the diagonal."""
    row, column = np.indices((rows, columns))
    return _kept(np.abs(row - column) <= width)


def scattered(rows: int, columns: int, count: int, seed: int) -> tuple[int, ...]:
    """`count` positions of M [rows columns] drawn without repetition; the same for the same seed."""
    return tuple(sorted(np.random.default_rng(seed).choice(rows * columns, count, replace=False).tolist()))


def strongest(score: Float[np.ndarray, "R R2"], count: int) -> tuple[int, ...]:
    """The `count` positions of largest absolute score, the first of equals."""
    order = np.argsort(-np.abs(score), axis=None, kind="stable")[:count]
    return tuple(sorted(order.tolist()))


def _kept(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(np.flatnonzero(mask).tolist())


def _example_banded(draw: Any, num_experts: int) -> SparseSpectral:
    pattern = banded(4, 5, 1)
    u, coefficients, v, residual = (draw(num_experts, *shape) for shape in ((6, 4), (len(pattern),), (5, 5), (6, 5)))
    return SparseSpectral(u, coefficients, v, residual, pattern=pattern)


def _example_diagonal(draw: Any, num_experts: int) -> SparseSpectral:
    u, coefficients, v, residual = (draw(num_experts, *shape) for shape in ((6, 4), (4,), (4, 5), (6, 5)))
    return SparseSpectral(u, coefficients, v, residual, pattern=banded(4, 4, 0))


def _example_per_expert(draw: Any, num_experts: int) -> SparseSpectral:
    pattern = tuple(scattered(4, 5, 3, seed) for seed in range(num_experts))
    u, coefficients, v, residual = (draw(num_experts, *shape) for shape in ((6, 4), (3,), (5, 5), (6, 5)))
    return SparseSpectral(u, coefficients, v, residual, pattern=pattern)


EXAMPLES = (_example_banded, _example_diagonal, _example_per_expert)
