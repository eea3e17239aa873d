"""The low-rank leaf: a kernel as the product of two thin factors, what a truncated singular value decomposition leaves.

Source: Eckart and Young 1936 (the best kernel of a rank); ours (the leaf, and what it costs).
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float
from moejax_kernels.lowrank_matmul import grouped_lowrank_matmul, lowrank_matmul
from moejax_kernels.lowrank_matmul.gradients import cut_factors

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish
from moejax.linear.expert_axis import take_arrays


@flax.struct.dataclass
class LowRank:
    """The kernel u v: u [D R], v [R F], or [E D R] and [E R F] in a bank. Products are computed in the dtype of x.

    ranks: one per expert where they differ: columns of u and rows of v beyond ranks[e] count as absent, whatever they hold,
    and get a gradient of exactly zero. They are numbers, not parameters: nothing trains, stacks or shards them. Where a
    bank is cut over devices by `shard_map`, pass `cleared()`, which needs none.
    """

    u: Annotated[Any, Float[Array, "... D R"]]
    v: Annotated[Any, Float[Array, "... R F"]]
    ranks: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product (x u) v. FLOPs: 2 R (D + F) per row."""
        rows = x.reshape(-1, x.shape[-1])
        product = lowrank_matmul(rows, self.u.astype(x.dtype), self.v.astype(x.dtype))
        return product.reshape(*x.shape[:-1], product.shape[-1])

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs: 2 R (D + F) per row."""
        dtype = x.tokens.dtype
        if isinstance(x, Ragged):
            ranks = None if self.ranks is None else jnp.asarray(self._checked_ranks(), jnp.int32)
            u, v = self.u.astype(dtype), self.v.astype(dtype)
            rows = grouped_lowrank_matmul(x.tokens, u, v, x.group_sizes, ranks=ranks)
            return finish(dataclasses.replace(x, tokens=rows), bias, activation)
        leaf = self.cleared()
        middle = jnp.einsum("ECD,EDR->ECR", x.tokens, leaf.u.astype(dtype))
        return finish(Buffers(jnp.einsum("ECR,ERF->ECF", middle, leaf.v.astype(dtype))), bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> "LowRank | Dense":
        """One kernel per group, the weighted sum over experts, exactly: the experts' components side by side, of rank E R.

        Dense [G D F] instead where that is no more numbers.
        """
        leaf = self.cleared()
        scaled = jnp.einsum("GE,ERF->GERF", weight.astype(leaf.v.dtype), leaf.v)
        experts, depth, rank = leaf.u.shape
        width = leaf.v.shape[2]
        if experts * rank * (depth + width) >= depth * width:
            return Dense(jnp.einsum("EDR,GERF->GDF", leaf.u, scaled))
        u = leaf.u.swapaxes(0, 1).reshape(depth, experts * rank)
        groups = weight.shape[0]
        return LowRank(jnp.broadcast_to(u, (groups, *u.shape)), scaled.reshape(groups, experts * rank, width))

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel u v."""
        leaf = self.cleared()
        return leaf.u @ leaf.v

    def cleared(self) -> "LowRank":
        """The same kernels with zeros in place of what lies beyond the ranks, and no ranks.

        Zeros on both sides stay zeros in training: the gradient of each is a product with the other.
        """
        if self.ranks is None:
            return self
        (u, v), _ = cut_factors((self.u, self.v), jnp.asarray(self._checked_ranks(), jnp.int32))
        return LowRank(u, v)

    def num_params(self) -> int:
        """The numbers that count: the sum of ranks[e] (D + F) over the experts."""
        return sum(self._ranks()) * (self.u.shape[-2] + self.v.shape[-1])

    def flops_per_row(self) -> int:
        """2 R (D + F), R the mean rank of the experts: of a row when all experts get as many. Rounded down."""
        ranks = self._ranks()
        return 2 * sum(ranks) * (self.u.shape[-2] + self.v.shape[-1]) // len(ranks)

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """None."""
        return ()

    def take(self, index: Sequence[int]) -> "LowRank":
        """The bank whose expert i is expert index[i] of this one."""
        ranks = None if self.ranks is None else tuple(self.ranks[i] for i in index)
        return dataclasses.replace(take_arrays(self, index), ranks=ranks)

    def _ranks(self) -> tuple[int, ...]:
        experts = 1 if self.u.ndim == 2 else self.u.shape[0]
        return (self.u.shape[-1],) * experts if self.ranks is None else self._checked_ranks()

    def _checked_ranks(self) -> tuple[int, ...]:
        if self.u.ndim != 3 or self.ranks is None or len(self.ranks) != self.u.shape[0]:
            raise SpecError(
                f"ranks={self.ranks} for u of shape {self.u.shape}: a bank [E D R] takes E of them, another kernel none; "
                "inside shard_map pass cleared()."
            )
        return self.ranks


def _example(draw: Any, num_experts: int) -> LowRank:
    return LowRank(draw(num_experts, 6, 3), draw(num_experts, 3, 5))


def _example_of_ranks(draw: Any, num_experts: int) -> LowRank:
    return dataclasses.replace(_example(draw, num_experts), ranks=tuple(e % 4 for e in range(num_experts)))


EXAMPLES = (_example, _example_of_ranks)
