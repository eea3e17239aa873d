"""Between trees with weight leaves and plain nested dicts of arrays, which optax and flax tools know.

Source: ours.
"""

import functools
from typing import Any

import jax
from flax import serialization
from jaxtyping import Array, PRNGKeyArray

from moejax.core.spec import build_spec
from moejax.layers.moe import MoE as Layer


def build_layer(fields: dict[str, Any]) -> Layer:
    """The functional layer from a module's fields: each a spec, a config dict with a 'name', or a name alone.

    Raises SpecError for unknown names and fields, before anything is traced.
    """
    return build_spec(Layer, fields, path="MoE")


@functools.partial(jax.jit, static_argnames=("layer", "dim"))
def initialise(layer: Layer, key: PRNGKeyArray, dim: int) -> tuple[Any, Any]:
    """`layer.init`, compiled once for all equal layers: op by op it takes seconds."""
    return layer.init(key, dim)


def to_plain(tree: Any) -> dict[str, Any]:
    """Nested dicts of arrays: a leaf type becomes the dict of its fields."""
    return serialization.to_state_dict(tree)


def from_plain(layer: Layer, dim: int, params: dict[str, Any], state: dict[str, Any]) -> tuple[Any, Any]:
    """Parameters and state as `layer` wants them; parts without arrays may be absent from the dicts."""
    shapes = jax.eval_shape(lambda key: layer.init(key, dim), jax.random.key(0))
    template = to_plain(shapes[0])
    complete = {name: params.get(name, {}) for name in template}
    return serialization.from_state_dict(shapes[0], complete), serialization.from_state_dict(shapes[1], state)


def with_arrays(parts: dict[str, Any]) -> dict[str, Any]:
    """The entries that hold at least one array; a hash router has no parameters, most routers no state."""
    return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


def fold_sequences(x: Array) -> Array:
    """[..., T, D] -> [B, T, D]; a batch of one for [T, D]."""
    return x.reshape(-1, *x.shape[-2:])
