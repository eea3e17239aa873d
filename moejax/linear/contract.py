"""What a weight leaf owes. A leaf is a `flax.struct.dataclass` that stands in a tree of parameters where a kernel would.

One kernel [D F], or a bank [E D F] of them: arrays of a bank carry a leading axis E, but for those that all experts share.
Stacked layers add an axis L in front of every array, which a scan takes away again before anything is multiplied.
Numbers that nothing trains (ranks, indices, orders of modes) are static fields: they say what the arrays mean.
Source: ours (the leaf's type decides the product, as in jax-llm-examples).
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from moejax.core.layouts import Layout


@runtime_checkable
class Leaf(Protocol):
    """The law: every product equals the einsum with `materialise`, in value and in all gradients."""

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product of x and the one kernel, in the dtype of x."""
        ...

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation, in the dtype of x."""
        ...

    def mix(self, weight: Float[Array, "G E"]) -> Any:
        """A leaf of G kernels, each the weighted sum over the experts: exactly, whatever type of leaf holds it."""
        ...

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel, in the dtype of the arrays."""
        ...

    def num_params(self) -> int:
        """The numbers that count: entries of the arrays without padding."""
        ...

    def flops_per_row(self) -> int:
        """Multiply-adds of products, counted as two, for one row."""
        ...

    def flops_once(self) -> int:
        """The same for one call, however many rows it has, of one expert: what is put together before rows are met."""
        ...

    def shared_fields(self) -> tuple[str, ...]:
        """The fields whose arrays have no expert axis in a bank: whole on every device when experts are cut over devices."""
        ...


def is_leaf(node: Any) -> bool:
    """True for a weight leaf; for `is_leaf=` of `jax.tree.map`."""
    return hasattr(node, "grouped_matmul") and hasattr(node, "materialise")
