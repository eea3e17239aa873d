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


def gpu_interpreter(interpret: Any) -> Any:
    """What `plgpu.kernel` takes as `interpret`: None to compile; True becomes the Mosaic GPU interpreter's defaults."""
    if interpret is False or interpret is None:
        return None
    return gpu_interpreter_params()() if interpret is True else interpret


def gpu_interpreter_params() -> Any:
    """The class of the Mosaic GPU interpreter's parameters, public since jax 0.11."""
    from jax.experimental.pallas import mosaic_gpu

    if hasattr(mosaic_gpu, "InterpretGPUParams"):
        return mosaic_gpu.InterpretGPUParams
    from jax._src.pallas.mosaic_gpu.interpret import params

    return params.InterpretGPUParams


def copies_are_clipped(interpret: Any) -> bool:
    """Whether copies over the edge of an array are clipped and operands may be transposed where they lie.

    So on the chip and in newer interpreters; the older Mosaic GPU interpreter (jax 0.10) does neither.
    """
    from jax.experimental.pallas import mosaic_gpu

    return interpret is False or interpret is None or hasattr(mosaic_gpu, "InterpretGPUParams")


def reset_gpu_interpreter() -> None:
    """Forgets what an interpreted kernel left behind when it raised; to be called before the next one."""
    from jax._src.pallas.mosaic_gpu.interpret import interpret_pallas_call

    interpret_pallas_call.reset_gpu_interpret_mode_state()


def abstract_gpu(kind: str) -> Any:
    """An abstract device of that kind, for `jax.sharding.AbstractMesh`, to lower for a GPU that is not there."""
    return jax.sharding.AbstractDevice(device_kind=kind, num_cores=None, platform="gpu")
