"""The MPO leaf: a kernel as a chain of small tensors, a matrix product operator, of which experts share the central one.

Source: Gao et al. 2022, "Parameter-Efficient Mixture-of-Experts Architecture for Pre-trained Language Models" (the shared
    central tensor, auxiliary tensors per expert); Oseledets 2011, "Tensor-Train Decomposition", algorithm 1 (`decompose`).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Layout
from moejax.linear.dense import Dense
from moejax.linear.epilogue import finish
from moejax.linear.expert_axis import add_expert_axis
from moejax.linear.layout_products import split_rows, times_shared


@flax.struct.dataclass
class Mpo:
    """kernel[(d1 .. dn), (f1 .. fn)] = T1[:, d1, f1, :] T2[:, d2, f2, :] .. Tn[:, dn, fn, :], products over the bonds.

    Tensor k is [bond, d, f, next bond], the outer bonds are 1, D is the product of all d and F of all f.
    central: the tensor in the middle of the chain, shared by all experts. auxiliary: the others in their order, a tuple of
    [E bond d f next]; of one layer alone without E. The kernel is never made in a product; between two tensors a row is
    `done * bond * rest` numbers, done the product of the f behind and rest that of the d ahead.
    """

    auxiliary: Any
    central: Annotated[Any, Float[Array, "..."]]

    def matmul(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """The rows of x through the tensors one by one. FLOPs: `flops_per_row`."""
        rows = Buffers(x.reshape(1, -1, x.shape[-1]))
        product = add_expert_axis(self).grouped_matmul(rows).tokens
        return product.reshape(*x.shape[:-1], product.shape[-1])

    def grouped_matmul(
        self, x: Layout, *, bias: Float[Array, "E F"] | None = None, activation: str | None = None
    ) -> Layout:
        """Each row through its own expert's tensors, plus its bias, through the activation. FLOPs: `flops_per_row`."""
        done, product = 1, x
        for tensor in self.tensors():
            product = _step(product, tensor, done)
            done *= tensor.shape[-2]
        return finish(product, bias, activation)

    def mix(self, weight: Float[Array, "G E"]) -> Dense:
        """One kernel per group, the weighted sum over experts, dense: sums of chains are no chains of these bonds."""
        return Dense(self.materialise()).mix(weight)

    def materialise(self) -> Float[Array, "... D F"]:
        """The dense kernel."""
        first, *others = self.tensors()
        kernel = first[..., 0, :, :, :]
        for tensor in others:
            kernel = _joined(kernel, tensor)
        return kernel[..., 0]

    def tensors(self) -> tuple[Any, ...]:
        """All tensors in the order of the chain."""
        middle = len(self.auxiliary) // 2
        return (*self.auxiliary[:middle], self.central, *self.auxiliary[middle:])

    def num_params(self) -> int:
        """E times the sizes of the auxiliary tensors, and the central one once."""
        return sum(tensor.size for tensor in self.tensors())

    def flops_per_row(self) -> int:
        """The sum over tensors of 2 done rest bond d f next (`done` and `rest` as above, without the tensor's own f and d)."""
        shapes = [tensor.shape[-4:] for tensor in self.tensors()]
        rest, done, flops = math.prod(shape[1] for shape in shapes), 1, 0
        for shape in shapes:
            rest //= shape[1]
            flops += 2 * done * rest * math.prod(shape)
            done *= shape[2]
        return flops

    def flops_once(self) -> int:
        """0."""
        return 0

    def shared_fields(self) -> tuple[str, ...]:
        """The central tensor."""
        return ("central",)


def _step(x: Layout, tensor: Array, done: int) -> Layout:
    """Rows [done * bond * d * rest] -> [done * f * next * rest]."""
    bond, depth, width, after = tensor.shape[-4:]
    lead = x.tokens.shape[:-1]
    rest = x.tokens.shape[-1] // (done * bond * depth)
    tokens = jnp.moveaxis(x.tokens.reshape(*lead, done, bond * depth, rest), -1, -2)
    rows = split_rows(dataclasses.replace(x, tokens=tokens.reshape(x.tokens.shape)), done * rest)
    matrix = tensor.reshape(*tensor.shape[:-4], bond * depth, width * after)
    out = times_shared(rows, matrix) if matrix.ndim == 2 else Dense(matrix).grouped_matmul(rows)
    tokens = out.tokens.reshape(*lead, done, rest, width * after)
    return dataclasses.replace(x, tokens=jnp.moveaxis(tokens, -1, -2).reshape(*lead, done * width * after * rest))


def _joined(kernel: Array, tensor: Array) -> Array:
    """A chain so far [... D F bond] and the next tensor [... bond d f next] -> [... D*d F*f next]."""
    own = ("" if kernel.ndim == 3 else "E", "" if tensor.ndim == 4 else "E")
    out = jnp.einsum(f"{own[0]}DFi,{own[1]}idfj->{max(own)}DdFfj", kernel, tensor)
    (a, b), (c, d) = kernel.shape[-3:-1], tensor.shape[-3:-1]
    return out.reshape(*out.shape[:-5], a * c, b * d, tensor.shape[-1])


def decompose(
    kernel: Float[np.ndarray, "D F"],
    input_modes: Sequence[int],
    output_modes: Sequence[int],
    *,
    bond_dim: int | None = None,
) -> tuple[np.ndarray, ...]:
    """The chain of tensors of a kernel, on the host in float64; without `bond_dim` (the largest bond) it rebuilds exactly.

    The squared error is at most the sum over bonds of the squared singular values that each cut leaves out. Raises
    SpecError when the modes do not multiply to D and F.
    """
    shapes = tensor_shapes(input_modes, output_modes, bond_dim=bond_dim)
    if kernel.shape != (math.prod(input_modes), math.prod(output_modes)):
        raise SpecError(f"modes {tuple(input_modes)} and {tuple(output_modes)} do not multiply to {kernel.shape}.")
    count = len(shapes)
    order = [axis for pair in zip(range(count), range(count, 2 * count), strict=True) for axis in pair]
    left = np.asarray(kernel, np.float64).reshape(*input_modes, *output_modes).transpose(order)
    tensors = []
    for shape in shapes[:-1]:
        u, spectrum, v = np.linalg.svd(left.reshape(math.prod(shape[:3]), -1), full_matrices=False)
        tensors.append(u[:, : shape[3]].reshape(shape))
        left = spectrum[: shape[3], None] * v[: shape[3]]
    return (*tensors, left.reshape(shapes[-1]))


def from_tensors(tensors: Sequence[Any], *, num_experts: int | None = None) -> Mpo:
    """The leaf of a chain, float32: one kernel, or a bank whose experts are all that kernel."""
    arrays = [jnp.asarray(tensor, jnp.float32) for tensor in tensors]
    central = arrays.pop((len(arrays) - 1) // 2)
    if num_experts is not None:
        arrays = [jnp.broadcast_to(array, (num_experts, *array.shape)) for array in arrays]
    return Mpo(tuple(arrays), central)


def tensor_shapes(
    input_modes: Sequence[int], output_modes: Sequence[int], *, bond_dim: int | None = None
) -> tuple[tuple[int, int, int, int], ...]:
    """(bond, d, f, next bond) of each tensor: bonds as large as the smaller side of their cut, `bond_dim` at most."""
    if len(input_modes) != len(output_modes) or not input_modes or min(*input_modes, *output_modes) < 1:
        raise SpecError(f"modes {tuple(input_modes)} and {tuple(output_modes)} must be equally many, each at least 1.")
    if bond_dim is not None and bond_dim < 1:
        raise SpecError(f"bond_dim={bond_dim} must be at least 1 (or None: bonds that rebuild every kernel).")
    sizes = [d * f for d, f in zip(input_modes, output_modes, strict=True)]
    bonds = [min(math.prod(sizes[:k]), math.prod(sizes[k:])) for k in range(len(sizes) + 1)]
    if bond_dim is not None:
        bonds = [min(bond, bond_dim) for bond in bonds]
    return tuple(zip(bonds[:-1], input_modes, output_modes, bonds[1:], strict=True))


def balanced_modes(width: int, count: int) -> tuple[int, ...]:
    """`count` factors of `width`, as even as its prime factors allow, largest in the middle: 12 in 3 gives (2, 3, 2)."""
    modes, factors, prime = [1] * count, [], 2
    while width > 1:
        if width % prime:
            prime += 1
        else:
            factors.append(prime)
            width //= prime
    for factor in reversed(factors):
        modes[modes.index(min(modes))] *= factor
    modes.sort()
    return (*modes[::2], *modes[1::2][::-1])


def _example(draw: Any, num_experts: int) -> Mpo:
    shapes = tensor_shapes((2, 3, 1), (2, 1, 3), bond_dim=3)
    return Mpo((draw(num_experts, *shapes[0]), draw(num_experts, *shapes[2])), draw(*shapes[1]))


def _example_of_four(draw: Any, num_experts: int) -> Mpo:
    shapes = tensor_shapes((2, 2, 1, 2), (2, 2, 2, 1))
    auxiliary = tuple(draw(num_experts, *shapes[k]) for k in (0, 2, 3))
    return Mpo(auxiliary, draw(*shapes[1]))


EXAMPLES = (_example, _example_of_four)
