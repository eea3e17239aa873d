"""The low-rank leaf with some whole columns of its own: a structured-sparse matrix beside two thin factors.

Source: Li et al. 2023, "LoSparse: Structured Compression of Large Language Models based on Low-Rank and Sparse Approximation",
    equation 3 (W = U V + S, S with few columns that are not zero), as Li et al. 2024, "Merge, Then Compress", section 3.2 use it
    for merged experts.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish, of_own_expert
from moejax.linear.expert_axis import take_arrays
from moejax.linear.low_rank import LowRank


@flax.struct.dataclass
class LowRankColumns:
    """The kernel u v, to which `columns` [D kept] are added at `positions`; u [D R], v [R F], each with a leading E in a bank.

    positions: one tuple of different columns for all experts, or a tuple of E equally long ones. ranks: as of LowRank. Both
    are static: nothing trains them.
    """

    u: Annotated[Any, Float[Array, "... D R"]]
    v: Annotated[Any, Float[Array, "... R F"]]
    columns: Annotated[Any, Float[Array, "... D kept"]]
    positions: tuple[Any, ...] = flax.struct.field(pytree_node=False)
    ranks: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """(x u) v, plus x columns at their positions. FLOPs: 2 R (D + F) + 2 D kept per row."""
        product = self.low_rank().matmul(x)
        return product.at[..., self._positions()].add(x @ self.columns.astype(x.dtype), unique_indices=True)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs as of `matmul`."""
        product, own = self.low_rank().grouped_matmul(x), Dense(self.columns).grouped_matmul(x)
        return finish(_add_columns(product, own, self._positions()), bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> Dense:
        """One kernel per group, the weighted sum over experts, dense."""
        return Dense(self.materialise()).mix(weight)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel."""
        kernel, positions = self.low_rank().materialise(), self._positions()
        if positions.ndim == 1:
            return kernel.at[..., positions].add(self.columns)
        expert = np.arange(len(positions))[:, None, None]
        depth = np.arange(kernel.shape[1])[None, :, None]
        return kernel.at[expert, depth, positions[:, None, :]].add(self.columns)

    def low_rank(self) -> LowRank:
        """The product u v alone."""
        return LowRank(self.u, self.v, self.ranks)

    def take(self, index: Sequence[int]) -> "LowRankColumns":
        """The bank whose expert i is expert index[i] of this one."""
        positions = tuple(self.positions[i] for i in index) if self._positions().ndim == 2 else self.positions
        ranks = None if self.ranks is None else tuple(self.ranks[i] for i in index)
        return take_arrays(self, index).replace(positions=positions, ranks=ranks)

    def cleared(self) -> "LowRankColumns":
        """The same kernels with the positions of all experts for each, columns of zeros among them, and no ranks.

        The added columns are parameters like the others, and train.
        """
        low, positions = self.low_rank().cleared(), self._positions()
        if positions.ndim == 1:
            return LowRankColumns(low.u, low.v, self.columns, self.positions)
        union = np.unique(positions)
        where = jnp.asarray(np.searchsorted(union, positions))
        columns = jnp.zeros((*self.columns.shape[:2], union.size), self.columns.dtype)
        expert, depth = np.arange(len(positions))[:, None, None], np.arange(columns.shape[1])[None, :, None]
        columns = columns.at[expert, depth, where[:, None, :]].set(self.columns)
        return LowRankColumns(low.u, low.v, columns, tuple(union.tolist()))

    def num_params(self) -> int:
        """The sum of ranks[e] (D + F) over the experts, and D kept for each."""
        return self.low_rank().num_params() + self.columns.size

    def flops_per_row(self) -> int:
        """2 R (D + F) + 2 D kept, R the mean rank."""
        return self.low_rank().flops_per_row() + 2 * self.columns.shape[-2] * self.columns.shape[-1]

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """None."""
        return ()

    def _positions(self) -> np.ndarray:
        """[kept] or [E kept]. Raises SpecError when they do not fit the arrays."""
        positions, kept, width = np.asarray(self.positions, np.int32), self.columns.shape[-1], self.v.shape[-1]
        fits = positions.shape in ((kept,), (*self.columns.shape[:-2], kept))
        if not fits or (positions.size and positions.max() >= width):
            raise SpecError(
                f"positions of shape {positions.shape} for columns {self.columns.shape} of kernels with {width}: each of the "
                f"{kept} needs one position below {width}; inside shard_map pass cleared()."
            )
        return positions


def _add_columns(product: Layout, own: Layout, positions: np.ndarray) -> Layout:
    if positions.ndim == 1:
        tokens = product.tokens.at[..., positions].add(own.tokens, unique_indices=True)
    elif isinstance(product, Ragged):
        row = jnp.arange(product.tokens.shape[0])[:, None]
        tokens = product.tokens.at[row, of_own_expert(product, jnp.asarray(positions))].add(own.tokens)
    else:
        experts, slots = product.tokens.shape[:2]
        expert, slot = np.arange(experts)[:, None, None], np.arange(slots)[None, :, None]
        tokens = product.tokens.at[expert, slot, positions[:, None, :]].add(own.tokens, unique_indices=True)
    return Buffers(tokens) if isinstance(product, Buffers) else Ragged(tokens, product.group_sizes)


def _example(draw: Any, num_experts: int) -> LowRankColumns:
    positions = tuple((e % 3, 3 + e % 2) for e in range(num_experts))
    return LowRankColumns(draw(num_experts, 6, 3), draw(num_experts, 3, 5), draw(num_experts, 6, 2), positions)


def _example_of_ranks(draw: Any, num_experts: int) -> LowRankColumns:
    ranks = tuple(e % 4 for e in range(num_experts))
    return LowRankColumns(draw(num_experts, 6, 3), draw(num_experts, 3, 5), draw(num_experts, 6, 2), (4, 1), ranks)


EXAMPLES = (_example, _example_of_ranks)
