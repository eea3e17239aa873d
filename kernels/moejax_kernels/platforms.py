"""Which chip a program is traced for, and which implementation that means."""

import dataclasses
import difflib
from typing import Any

import jax
import jax.numpy as jnp

from moejax_kernels import _compat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """platform: 'cpu', 'tpu' or 'gpu'. kind: the device kind as jax names it, '' where unknown."""

    platform: str
    kind: str = ""


def target() -> Target:
    """The chip of the mesh in use (`jax.sharding.use_abstract_mesh`, as for ahead-of-time compilation), else the default device's.

    Source: ours.
    """
    known = _compat.abstract_device()
    if known is not None and known[0]:
        platform, kind = known
    else:
        device = jax.config.jax_default_device  # type: ignore[attr-defined]
        if device is None or isinstance(device, str):
            device = jax.devices(device)[0] if device else jax.devices()[0]
        platform, kind = device.platform, device.device_kind
    return Target(platform="gpu" if platform in ("cuda", "rocm", "gpu") else platform, kind=kind)


def has_mosaic_gpu(chip: Target) -> bool:
    """Whether our Mosaic GPU kernels have this chip's matrix instructions: NVIDIA Hopper's, which Blackwell dropped.

    Chips are told by compute capability where one is present, else (ahead of time) by their name.
    """
    if chip.platform != "gpu":
        return False
    for device in jax.devices():
        if device.device_kind == chip.kind and hasattr(device, "compute_capability"):
            return 9.0 <= float(device.compute_capability) < 10.0
    return any(name in chip.kind for name in ("H100", "H200", "H800", "H20"))


def choose_implementation(name: str | None, known: tuple[str, ...], dtype: Any, *, interpret: object = False) -> str:
    """The implementation asked for, or for None the one for the chip at hand and operands of `dtype`.

    The Hopper kernels multiply 16-bit numbers only: other operands take 'xla' there.

    Raises ValueError for an unknown name, with the nearest known one, and for a Pallas implementation of another platform
    than the program's that is not interpreted. Source: ours.
    """
    chip = target()
    if name is None:
        if chip.platform == "tpu":
            return "pallas_tpu"
        short = jnp.dtype(dtype).itemsize == 2
        return "pallas_gpu" if "pallas_gpu" in known and short and has_mosaic_gpu(chip) else "xla"
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"implementation={name!r} is not one of {', '.join(known)}.{hint}")
    platform = name.removeprefix("pallas_") if name.startswith("pallas_") else chip.platform
    if not interpret and chip.platform != platform:
        raise ValueError(
            f"implementation={name!r} runs on {platform} only, and this program is traced for {chip.platform} "
            f"({chip.kind}); pass interpret=True to run it in Python, compile under "
            f"jax.sharding.use_abstract_mesh of a {platform} mesh, or take implementation='xla'."
        )
    return name
