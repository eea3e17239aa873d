"""The tensor-ring leaf: the tensor of all experts' kernels as three cores in a ring.

Source: Oldfield et al. 2024, "Multilinear Mixture of Experts: Scalable Expert Specialization through Factorization" (the
    tensor-ring form); Zhao et al. 2016, "Tensor Ring Decomposition" (the trace of a product of slices).
"""

import dataclasses
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from moejax.core.layouts import Layout
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish
from moejax.linear.layout_products import join_rows, split_rows, times_shared


@flax.struct.dataclass
class TensorRing:
    """kernel[e, d, f] = sum over i, j, k of core[e, i, j] input[d, k, i] output[k, j, f]: a ring with three bonds.

    core: [E R R2] (of one layer alone [R R2]), input: [D R3 R], output: [R3 R2 F], both shared by all experts. The bond R
    joins experts and inputs, R2 experts and outputs, R3 inputs and outputs. A tensor train is the ring with one bond of
    size 1: R = 1 for the order of modes e, f, d (the paper's), R2 = 1 for e, d, f.
    An expert more costs R R2 numbers. The tensor is never made in a product.
    """

    core: Annotated[Any, Float[Array, "... R R2"]]
    input: Annotated[Any, Float[Array, "... D R3 R"]]
    output: Annotated[Any, Float[Array, "... R3 R2 F"]]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The rows of x through the cores of input, expert and output. FLOPs: 2 R3 (D R + R R2 + R2 F) per row."""
        kernels = (self._input().astype(x.dtype), self.core.astype(x.dtype), self._output().astype(x.dtype))
        middle = (x @ kernels[0]).reshape(*x.shape[:-1], *self.input.shape[1:]) @ kernels[1]
        return middle.reshape(*x.shape[:-1], kernels[2].shape[0]) @ kernels[2]

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row times its own expert's kernel, plus its bias, through the activation. FLOPs as of `matmul`."""
        bond = self.input.shape[1]
        middle = split_rows(times_shared(x, self._input()), bond)
        middle = join_rows(Dense(self.core).grouped_matmul(middle), x, bond)
        return finish(times_shared(middle, self._output()), bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> "TensorRing":
        """One kernel per group, the weighted sum over experts: of their cores."""
        return dataclasses.replace(self, core=Dense(self.core).mix(weight).kernel)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel."""
        return jnp.einsum("...ij,Dki,kjF->...DF", self.core, self.input, self.output)

    def num_params(self) -> int:
        """E R R2 + D R3 R + R3 R2 F: linear in E."""
        return self.core.size + self.input.size + self.output.size

    def flops_per_row(self) -> int:
        """2 R3 (D R + R R2 + R2 F)."""
        depth, between, left = self.input.shape[-3:]
        right, width = self.output.shape[-2:]
        return 2 * between * (depth * left + left * right + right * width)

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """The cores of inputs and outputs."""
        return ("input", "output")

    def _input(self) -> Float[Array, "D bonds"]:
        return self.input.reshape(self.input.shape[0], -1)

    def _output(self) -> Float[Array, "bonds F"]:
        return self.output.reshape(-1, self.output.shape[-1])


def _example_ring(draw: Any, num_experts: int) -> TensorRing:
    return TensorRing(draw(num_experts, 2, 3), draw(6, 4, 2), draw(4, 3, 5))


def _example_train(draw: Any, num_experts: int) -> TensorRing:
    return TensorRing(draw(num_experts, 1, 3), draw(6, 2, 1), draw(2, 3, 5))


EXAMPLES = (_example_ring, _example_train)
