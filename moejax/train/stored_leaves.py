"""Leaves on their way to disk and back: names, shapes, copies. Source: ours."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError
from moejax.core.tree import describe, differences, flatten


def check_fits(template: Any, described: Mapping[str, str], *, source: str) -> None:
    """Raises SpecError with every leaf that differs between `template` and {leaf name: 'float32[8,64]'}."""
    expected = {name: _shape_of(describe(_data_shape(leaf))) for name, leaf in flatten(template).items()}
    lines = differences(expected, {name: _shape_of(text) for name, text in described.items()})
    if lines:
        shown = "\n".join(f"  {line}" for line in lines[:20])
        more = f"\n  ... and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise SpecError(
            f"{source} does not fit this config; {len(lines)} leaves differ:\n{shown}{more}\n"
            "Use the config it was written with, or another --workdir."
        )


def fill(template: Any, leaves: Mapping[str, Any], *, prefix: str = "") -> Any:
    """`template` with every leaf replaced by the array of its name; typed keys are wrapped again."""

    def pick(path: Any, leaf: Any) -> Any:
        array = leaves[prefix + jax.tree_util.keystr(path, simple=True, separator="/")]
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                jnp.asarray(array), impl=jax.random.key_impl(leaf) if hasattr(leaf, "_impl") else None
            )
        return array

    return jax.tree_util.tree_map_with_path(pick, template)


def own_copy(leaf: Any) -> Any:
    """A copy of a leaf, with the same parts on the same devices where it is one of jax; of a typed key, its data.

    Where the write is asynchronous the next step may be given the leaf's buffer before it is read: arrays of accelerators are
    copied on their way to the host, those of a CPU would not be.
    """
    array = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    if not isinstance(array, jax.Array):
        return np.array(array)
    devices: Any = array.sharding.device_set
    if next(iter(devices)).platform != "cpu":
        return array
    copies = [jax.device_put(np.array(shard.data), shard.device) for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, copies)


def _data_shape(leaf: Any) -> Any:
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@dataclasses.dataclass(frozen=True)
class _Described:
    shape: tuple[int, ...]
    dtype: str


def _shape_of(text: str) -> _Described:
    dtype, _, axes = text.rstrip("]").partition("[")
    return _Described(tuple(int(size) for size in axes.split(",") if size), dtype)
