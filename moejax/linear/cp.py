"""The CP leaf: the tensor of all experts' kernels as a sum of R outer products.

Source: Oldfield et al. 2024, "Multilinear Mixture of Experts: Scalable Expert Specialization through Factorization" (the
    CP form); Hitchcock 1927 (the decomposition).
"""

import dataclasses
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Layout
from moejax.linear.epilogue import finish
from moejax.linear.layout_products import times_own_scale, times_shared


@flax.struct.dataclass
class Cp:
    """kernel[e, d, f] = sum_r scale[e, r] u[d, r] v[r, f]: all experts share u [D R] and v [R F], each scales their middle.

    scale: [E R], of one layer alone [R]. An expert more costs R numbers. The tensor is never made in a product.
    """

    u: Annotated[Any, Float[Array, "... D R"]]
    scale: Annotated[Any, Float[Array, "... R"]]
    v: Annotated[Any, Float[Array, "... R F"]]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The product ((x u) scale) v. FLOPs: 2 R (D + F) per row."""
        middle = x @ self.u.astype(x.dtype)
        return (middle * jnp.broadcast_to(self.scale.astype(x.dtype), middle.shape)) @ self.v.astype(x.dtype)

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs: 2 R (D + F) per row."""
        middle = times_own_scale(times_shared(x, self.u), self.scale)
        return finish(times_shared(middle, self.v), bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> "Cp":
        """One kernel per group, the weighted sum over experts: of their scales."""
        return dataclasses.replace(self, scale=weight.astype(self.scale.dtype) @ self.scale)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel."""
        return jnp.einsum("DR,...R,RF->...DF", self.u, self.scale, self.v)

    def num_params(self) -> int:
        """R (E + D + F): linear in E."""
        return self.u.size + self.scale.size + self.v.size

    def flops_per_row(self) -> int:
        """2 R (D + F)."""
        return 2 * self.u.shape[-1] * (self.u.shape[-2] + self.v.shape[-1])

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """Both factors."""
        return ("u", "v")


def _example(draw: Any, num_experts: int) -> Cp:
    return Cp(draw(6, 4), draw(num_experts, 4), draw(4, 5))


EXAMPLES = (_example,)
