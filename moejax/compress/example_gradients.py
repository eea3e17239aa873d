"""Sums over the gradients of single examples.

Source: ours; the products for Kronecker factors: equations of GFWSVD, here without forming the Fisher matrix.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.linear.contract import is_leaf
from moejax.linear.dense import Dense

GRADIENT_FIELDS = ("examples", "fisher", "fisher_rows", "kronecker_in", "kronecker_out")
_HIGHEST = jax.lax.Precision.HIGHEST

Sums = dict[str, dict[str, Array]]


@flax.struct.dataclass
class Factors:
    """The Kronecker factors of the pass before by weight: inside [... D D], outside [... F F]."""

    inside: dict[str, Array]
    outside: dict[str, Array]


def normalised(inside: Mapping[str, np.ndarray], outside: Mapping[str, np.ndarray]) -> Factors:
    """Each matrix divided by its Frobenius norm: only its direction matters. Zeros become the identity again."""

    def one(matrix: np.ndarray) -> Array:
        norm = np.linalg.norm(matrix, axis=(-2, -1), keepdims=True)
        eye = np.broadcast_to(np.eye(matrix.shape[-1]), matrix.shape)
        return jnp.asarray(np.where(norm > 0, matrix / np.where(norm > 0, norm, 1.0), eye), jnp.float32)

    return Factors({name: one(m) for name, m in inside.items()}, {name: one(m) for name, m in outside.items()})


def build_gradient_sums(
    loss: Callable[[Any, Any], Array], names: tuple[str, ...], fields: tuple[str, ...], chunk: int
) -> Callable[[Any, Any, Factors | None], Sums]:
    """(params, batch, factors) -> sums over the examples of the batch, as LeafStatistics defines them.

    factors: None for identities. A weight of any type of leaf is taken as the dense kernel that it stands for. Examples are computed `chunk` at a time
    (the largest divisor of the batch that is not above it). Raises SpecError for a chunk below 1.
    """
    if chunk < 1:
        raise SpecError(f"chunk={chunk} examples at once must be at least 1.")

    def gradient(kernels: dict[str, Array], params: Any, example: Any) -> dict[str, Array]:
        def of_kernels(chosen: dict[str, Array]) -> Array:
            return loss(_with_kernels(params, chosen, ""), example).astype(jnp.float32)

        return jax.grad(of_kernels)(kernels)

    def sums(params: Any, batch: Any, factors: Factors | None) -> Sums:
        kernels = {name: _kernel(params, name) for name in names}
        size = jax.tree.leaves(batch)[0].shape[0]
        step = max(n for n in range(1, min(chunk, size) + 1) if size % n == 0)
        chunks = jax.tree.map(lambda a: a.reshape(size // step, step, 1, *a.shape[1:]), batch)

        def chunk_sums(examples: Any) -> Sums:
            gradients = jax.vmap(lambda example: gradient(kernels, params, example))(examples)
            return {name: _sums(name, g.astype(jnp.float32), fields, factors) for name, g in gradients.items()}

        shapes = jax.eval_shape(chunk_sums, jax.tree.map(lambda a: a[0], chunks))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return jax.lax.scan(lambda t, c: (jax.tree.map(jnp.add, t, chunk_sums(c)), None), zeros, chunks)[0]

    return sums


def _sums(
    name: str, gradients: Float[Array, "B ... D F"], fields: tuple[str, ...], factors: Factors | None
) -> dict[str, Array]:
    squares = jnp.square(gradients)
    found = {}
    for field in fields:
        if field == "examples":
            found[field] = jnp.full(gradients.shape[1:-2], gradients.shape[0], jnp.float32)
        elif field == "fisher":
            found[field] = squares.sum(0)
        elif field == "fisher_rows":
            found[field] = squares.sum((0, -1))
        else:
            turned = jnp.swapaxes(gradients, -1, -2)
            left, right = (gradients, turned) if field == "kronecker_in" else (turned, gradients)
            inner = left
            if factors is not None:
                middle = factors.outside[name] if field == "kronecker_in" else factors.inside[name]
                inner = jnp.einsum("B...DF,...FH->B...DH", left, middle, precision=_HIGHEST)
            found[field] = jnp.einsum("B...DH,B...HT->...DT", inner, right, precision=_HIGHEST)
    return found


def _kernel(params: Any, name: str) -> Array:
    node = params
    for key in name.split("/"):
        node = node[key]
    return node.materialise() if is_leaf(node) else node


def _with_kernels(node: Any, kernels: dict[str, Array], name: str) -> Any:
    if name in kernels:
        return Dense(kernels[name]) if is_leaf(node) else kernels[name]
    if isinstance(node, Mapping) and not is_leaf(node):
        return {
            key: _with_kernels(child, kernels, f"{name}/{key}" if name else str(key)) for key, child in node.items()
        }
    return node
