"""The kernels of a tree: found by regex, read one matrix at a time in float64, and put back as other leaves.

Source: ours.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moejax.compress.low_rank_bank import low_rank_bank
from moejax.core.errors import SpecError, did_you_mean
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank


@dataclasses.dataclass(frozen=True)
class Weight:
    """A kernel [D F] or a bank of them [E D F], under its name in the tree: a Dense leaf, or an array."""

    name: str
    node: Any

    @property
    def array(self) -> Any:
        """The kernel itself."""
        return self.node.kernel if isinstance(self.node, Dense) else self.node

    @property
    def shape(self) -> tuple[int, ...]:
        """[D F] or [E D F]."""
        return tuple(self.array.shape)

    @property
    def num_matrices(self) -> int:
        """E, or 1."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def matrix(self, index: int) -> Float[np.ndarray, "D F"]:
        """Expert `index` of a bank, or the kernel. Raises SpecError when it is not finite."""
        value = np.asarray(self.array[index] if len(self.shape) == 3 else self.array).astype(np.float64)
        if not np.all(np.isfinite(value)):
            where = f" of expert {index}" if len(self.shape) == 3 else ""
            raise SpecError(f"{self.name}: the kernel{where} holds NaN or infinite values; repair it, or leave it out.")
        return value

    def low_rank(self, factors: Sequence[tuple[np.ndarray, np.ndarray]]) -> LowRank:
        """The leaf of u [D r], v [r F] per matrix, in the kernel's dtype."""
        bank = low_rank_bank(factors, self.array.dtype)
        return LowRank(bank.u[0], bank.v[0]) if len(self.shape) == 2 else bank


def is_leaf(node: Any) -> bool:
    """True for weight leaves, which are nodes of arrays to JAX."""
    return hasattr(node, "materialise")


def find(params: Any, only: str | None) -> dict[str, Weight]:
    """Name -> weight, in the natural order of names ('layer_2' before 'layer_10').

    only: a regex found in the name; takes Dense leaves and arrays of two or three axes, except those named 'bias'. None:
    Dense leaves, and arrays [D F] named 'kernel' that are no router's. Raises SpecError where nothing is found, or what is found cannot be
    compressed: leaves that are factorised already, or kernels stacked over layers.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_leaf)
    nodes = {jax.tree_util.keystr(path, simple=True, separator="/"): node for path, node in flat}
    try:
        pattern = re.compile(only or "")
    except re.error as error:
        raise SpecError(f"only={only!r} is not a regular expression ({error}).") from error
    named = [name for name in sorted(nodes, key=natural_order) if pattern.search(name)]
    found = {
        name: Weight(name, nodes[name]) for name in named if _is_kernel(name, nodes[name], explicit=only is not None)
    }
    if not found:
        raise SpecError(
            f"only={only!r} finds no kernel of two or three axes among the weights."
            + did_you_mean(only or "kernel", nodes)
        )
    return found


def replace(params: Any, nodes: Mapping[str, Any]) -> Any:
    """The tree with other nodes under these names."""
    flat, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_leaf)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]
    return jax.tree.unflatten(structure, [nodes.get(name, node) for name, (_, node) in zip(names, flat, strict=True)])


def natural_order(name: str) -> list[Any]:
    """A sort key by which numbers count as numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def materialise(params: Any, like: Any | None = None) -> Any:
    """The tree with dense arrays in place of factorised leaves, of the shapes that they had before compression.

    like: the tree before compression (shapes are enough); where it has a Dense leaf, a Dense leaf comes back. Without it
    every leaf becomes an array.
    """

    def dense(node: Any, wanted: Any = None) -> Any:
        if not is_leaf(node):
            return node
        return Dense(node.materialise()) if isinstance(wanted, Dense) else node.materialise()

    if like is None:
        return jax.tree.map(dense, params, is_leaf=is_leaf)
    flat, structure = jax.tree.flatten(like, is_leaf=is_leaf)
    return jax.tree.unflatten(structure, map(dense, jax.tree.leaves(params, is_leaf=is_leaf), flat))


def _is_kernel(name: str, node: Any, *, explicit: bool) -> bool:
    last = name.rpartition("/")[2]
    if is_leaf(node) and not isinstance(node, Dense):
        if explicit:
            raise SpecError(
                f"{name} is a {type(node).__name__} already; materialise it first, or leave it out with `only`."
            )
        return False
    shape = tuple(getattr(node.kernel if isinstance(node, Dense) else node, "shape", ()))
    if isinstance(node, Dense) and len(shape) > 3:
        raise SpecError(
            f"{name} of shape {shape} is stacked over layers; split the layers, since each gets its own ranks."
        )
    if isinstance(node, Dense):
        return len(shape) in (2, 3)
    if not hasattr(node, "dtype") or not jnp.issubdtype(node.dtype, jnp.floating):
        return False
    if explicit:
        return len(shape) in (2, 3) and not re.search(r"(^|_)bias$", last)
    return len(shape) == 2 and last == "kernel" and "router" not in name.split("/")
