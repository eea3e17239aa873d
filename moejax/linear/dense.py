"""The dense leaf: a kernel as it is.

Source: ours (the leaf's type decides the product).
"""

from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from moejax_kernels.grouped_matmul import grouped_matmul

from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.linear.epilogue import finish


@flax.struct.dataclass
class Dense:
    """kernel: [D F], or [E D F] in a bank of experts. The product is computed in the dtype of x."""

    kernel: Annotated[Any, Float[Array, "... D F"]]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product x @ kernel. FLOPs: 2 D F per row."""
        return x @ self.kernel.astype(x.dtype)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs: 2 D F per row."""
        kernel = self.kernel.astype(x.tokens.dtype)
        if isinstance(x, Ragged):
            own = None if bias is None else bias.astype(x.tokens.dtype)
            rows = grouped_matmul(x.tokens, kernel, x.group_sizes, bias=own, activation=activation)
            return Ragged(rows, x.group_sizes)
        return finish(Buffers(jnp.einsum("ECD,EDF->ECF", x.tokens, kernel)), bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> "Dense":
        """One kernel per group, the weighted sum over experts: [G D F]."""
        return Dense(jnp.einsum("GE,EDF->GDF", weight.astype(self.kernel.dtype), self.kernel))

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel."""
        return self.kernel

    def num_params(self) -> int:
        """D F per expert."""
        return self.kernel.size

    def flops_per_row(self) -> int:
        """2 D F."""
        return 2 * self.kernel.shape[-2] * self.kernel.shape[-1]

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """None."""
        return ()


def init_dense(
    key: PRNGKeyArray, shape: tuple[int, ...], initializer: Any, *, equal: bool = False, dtype: Any = jnp.float32
) -> Dense:
    """A dense leaf of `shape` [D F] or [E D F].

    With a leading axis E each expert's kernel is drawn alone, so that fan-in counts D only; `equal` gives all the same.
    """
    if len(shape) == 2:
        return Dense(initializer(key, shape, dtype))
    if equal:
        return Dense(jnp.broadcast_to(initializer(key, shape[1:], dtype), shape))
    return Dense(jax.vmap(lambda k: initializer(k, shape[1:], dtype))(jax.random.split(key, shape[0])))


def _example(draw: Any, num_experts: int) -> Dense:
    return Dense(draw(num_experts, 6, 5))


EXAMPLES = (_example,)
