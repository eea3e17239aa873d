"""Every Pallas and mesh name that differs between the jax versions we support, said once."""

from typing import Any

import jax


def abstract_device() -> tuple[str, str] | None:
    """(platform, device kind) of the mesh in use, where ahead-of-time compilation has set one that knows its chip."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if device is None:
        return None
    return device.platform or "", device.device_kind or ""


def output_of(shape: tuple[int, ...], dtype: Any, *operands: jax.Array) -> jax.ShapeDtypeStruct:
    """An output that varies over every mesh axis that one of the operands varies over, as kernels inside shard_map must say."""
    varying = frozenset().union(*(jax.typeof(operand).manual_axis_type.varying for operand in operands))
    kind = jax.sharding.ManualAxisType(varying=varying)
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=kind)
