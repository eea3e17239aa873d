"""Device meshes with the three named axes `data`, `expert` and `model`."""

import dataclasses
import math

import jax
from jax.sharding import AxisType, Mesh

from moejax.core.errors import SpecError

AXIS_NAMES = ("data", "expert", "model")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """Devices along each axis; one of the three may be -1, "all that are left". Source: ours."""

    data: int = -1
    expert: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        sizes = dict(zip(AXIS_NAMES, self.sizes, strict=True))
        if any(size == 0 or size < -1 for size in sizes.values()):
            raise SpecError(f"mesh sizes {sizes} must be positive, or -1 for all devices that are left.")
        if self.sizes.count(-1) > 1:
            raise SpecError(f"mesh sizes {sizes}: only one axis may be -1.")

    @property
    def sizes(self) -> tuple[int, int, int]:
        return (self.data, self.expert, self.model)

    def build(self, devices: list[jax.Device] | None = None) -> Mesh:
        """The mesh over `devices` (default: all). Raises SpecError when the sizes do not multiply to their number."""
        devices = jax.devices() if devices is None else devices
        fixed = math.prod(size for size in self.sizes if size != -1)
        sizes = tuple(len(devices) // fixed if size == -1 else size for size in self.sizes)
        if math.prod(sizes) != len(devices):
            wanted = ", ".join(f"{name}={size}" for name, size in zip(AXIS_NAMES, self.sizes, strict=True))
            raise SpecError(
                f"mesh {wanted} does not fit {len(devices)} devices; the sizes must multiply to that number."
            )
        return jax.make_mesh(sizes, AXIS_NAMES, axis_types=(AxisType.Auto,) * len(AXIS_NAMES), devices=devices)
