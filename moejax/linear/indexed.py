"""The indexed leaf: a bank of merged experts that stands for a larger one, several experts computing with one kernel.

Source: Li et al. 2024, "Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy", section 3.1 (
    experts merged by groups, tokens of all of a group's members go to the merged one).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish, of_own_expert
from moejax.linear.expert_axis import bank_size, take_experts
from moejax.linear.low_rank import LowRank


@flax.struct.dataclass
class Indexed:
    """Expert e computes with expert index[e] of `leaf`, a bank of fewer experts. Nothing is stored or copied per expert.

    Products regroup the rows, which are few numbers, and not the kernels. Where a bank is cut over devices by
    `shard_map`, pass `cleared()`, which needs no index.
    """

    leaf: Any
    index: tuple[int, ...] = flax.struct.field(pytree_node=False)

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """Raises SpecError: an index chooses among experts; without them there is nothing to choose."""
        raise SpecError(f"index={self.index} is of a bank of {len(self.index)} experts; take one of them first.")

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's merged kernel, plus its own bias, through the activation. FLOPs: the leaf's."""
        product = self._rows(x) if isinstance(x, Ragged) else self._buffers(x)
        return finish(product, bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> Any:
        """One kernel per group: the weights of experts that share a kernel are added first."""
        member = jnp.asarray(np.eye(self._merged())[np.asarray(self.index)], weight.dtype)
        return self.leaf.mix(weight @ member)

    def materialise(self) -> Float[Array, "E D F"]:
        """The dense kernels, one per expert, copies included."""
        used = sorted(set(self.index))
        leaf = self.leaf if len(used) == self._merged() else take_experts(self.leaf, used)
        return jnp.take(leaf.materialise(), np.searchsorted(used, self.index).astype(np.int32), axis=0)

    def take(self, index: Sequence[int]) -> "Indexed":
        """The bank whose expert i is expert index[i] of this one."""
        return dataclasses.replace(self, index=tuple(self.index[i] for i in index))

    def cleared(self) -> Any:
        """The same kernels as a bank of the inner type, a copy per expert, and no index."""
        taken = take_experts(self.leaf, self.index)
        return taken.cleared() if hasattr(taken, "cleared") else taken

    def num_params(self) -> int:
        """Those of the merged experts."""
        return self.leaf.num_params()

    def flops_per_row(self) -> int:
        """Those of the merged experts."""
        return self.leaf.flops_per_row()

    def flops_once(self) -> int:
        """Those of the merged experts."""
        return self.leaf.flops_once()

    def shared_fields(self) -> tuple[str, ...]:
        """All: the merged experts are not the bank's experts, and each may be needed on every device."""
        return ("leaf",)

    def _merged(self) -> int:
        """How many merged experts the index needs: the largest entry and one. Raises SpecError for a negative entry."""
        if not self.index or min(self.index) < 0:
            raise SpecError(f"index={self.index} must name one merged expert, 0 or above, for each expert.")
        return self._count(max(self.index) + 1)

    def _count(self, least: int) -> int:
        found = bank_size(self.leaf)
        if found is not None and found < least:
            raise SpecError(f"index={self.index} names merged expert {least - 1}, but there are {found}.")
        return least if found is None else found

    def _buffers(self, x: Buffers) -> Buffers:
        """Buffers of experts that share a kernel become one longer buffer, where all kernels are shared by equally many."""
        experts, slots, depth = x.tokens.shape
        self._check_experts(experts)
        order = np.argsort(self.index, kind="stable")
        members = np.bincount(self.index, minlength=self._merged())
        tokens, longest = _permuted(x.tokens, order), int(members.max())
        if members.min() == longest:
            merged = self.leaf.grouped_matmul(Buffers(tokens.reshape(len(members), longest * slots, depth)))
        else:
            sizes = jnp.asarray(members * slots, jnp.int32)
            merged = self.leaf.grouped_matmul(Ragged(tokens.reshape(experts * slots, depth), sizes))
        out = merged.tokens.reshape(experts, slots, merged.tokens.shape[-1])
        return Buffers(_permuted(out, np.argsort(order)))

    def _rows(self, x: Ragged) -> Ragged:
        """Rows of experts that share a kernel are brought together; they already are where the index does not fall."""
        self._check_experts(x.group_sizes.shape[0])
        index = np.asarray(self.index, np.int32)
        merged_sizes = jnp.zeros(self._merged(), x.group_sizes.dtype).at[index].add(x.group_sizes)
        if np.all(np.diff(index) >= 0):
            return dataclasses.replace(x, tokens=self.leaf.grouped_matmul(Ragged(x.tokens, merged_sizes)).tokens)
        target = self._new_rows(x)
        count = jnp.arange(target.size, dtype=target.dtype)
        source = jnp.zeros_like(target).at[target].set(count, unique_indices=True)
        moved = Ragged(jnp.take(x.tokens, source, axis=0, unique_indices=True), merged_sizes)
        out = self.leaf.grouped_matmul(moved).tokens
        return dataclasses.replace(x, tokens=jnp.take(out, target, axis=0, unique_indices=True))

    def _new_rows(self, x: Ragged) -> Array:
        """Where each row goes: as far as its expert's first row goes. Rows after the last group stay."""
        order = np.argsort(self.index, kind="stable")
        before = jnp.cumsum(x.group_sizes) - x.group_sizes
        sorted_sizes = x.group_sizes[order]
        after = (jnp.cumsum(sorted_sizes) - sorted_sizes)[np.argsort(order)]
        shift = of_own_expert(x, (after - before)[:, None])[:, 0]
        return jnp.arange(x.tokens.shape[0], dtype=shift.dtype) + shift

    def _check_experts(self, experts: int) -> None:
        if experts != len(self.index):
            raise SpecError(
                f"index={self.index} is of {len(self.index)} experts, the rows are of {experts}; inside shard_map pass cleared()."
            )


def _permuted(tokens: Float[Array, "E C D"], order: np.ndarray) -> Float[Array, "E C D"]:
    return (
        tokens if np.array_equal(order, np.arange(len(order))) else jnp.take(tokens, order, axis=0, unique_indices=True)
    )


def _example_even(draw: Any, num_experts: int) -> Indexed:
    merged = num_experts // 2
    inner = LowRank(draw(merged, 6, 2), draw(merged, 2, 5))
    return Indexed(inner, tuple(e % merged for e in range(2 * merged)))


def _example_uneven(draw: Any, num_experts: int) -> Indexed:
    return Indexed(Dense(draw(2, 6, 5)), (0, *(1 for _ in range(num_experts - 1))))


def _example_falling(draw: Any, num_experts: int) -> Indexed:
    return Indexed(Dense(draw(3, 6, 5)), tuple((2 * e + 1) % 3 for e in range(num_experts)))


EXAMPLES = (_example_even, _example_uneven, _example_falling)
