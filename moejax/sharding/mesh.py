"""Device meshes with the four named axes `data`, `fsdp`, `expert` and `model`.

`data`, `fsdp` and `expert` all split the batch, so that layers without experts are data-parallel over all three and experts
need no devices of their own. `fsdp` splits parameters and optimiser state too, `expert` the banks of experts, `model` the
hidden widths and heads.
"""

import dataclasses
import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from moejax.core.errors import SpecError

AXIS_NAMES = ("data", "fsdp", "expert", "model")
BATCH_AXES = ("data", "fsdp", "expert")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """Devices along each axis; one of the four may be -1, "all that are left".

    Neighbours on `model`, then on `expert`, are neighbours in the machine; where devices lie in several slices, only `data`
    goes from slice to slice. Source: ours; orders within a slice by `jax.make_mesh`.
    """

    data: int = -1
    fsdp: int = 1
    expert: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        if any(size == 0 or size < -1 for size in self.sizes):
            raise SpecError(f"mesh sizes {self.named} must be positive, or -1 for all devices that are left.")
        if self.sizes.count(-1) > 1:
            raise SpecError(f"mesh sizes {self.named}: only one axis may be -1.")

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return (self.data, self.fsdp, self.expert, self.model)

    @property
    def named(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in zip(AXIS_NAMES, self.sizes, strict=True))

    def solved(self, num_devices: int) -> tuple[int, int, int, int]:
        """The sizes with -1 filled in. Raises SpecError when they do not multiply to `num_devices`."""
        fixed = math.prod(size for size in self.sizes if size != -1)
        data, fsdp, expert, model = (num_devices // fixed if size == -1 else size for size in self.sizes)
        if data * fsdp * expert * model != num_devices:
            raise SpecError(
                f"mesh {self.named} does not fit {num_devices} devices; the sizes must multiply to that number"
                + ("." if -1 in self.sizes else ", or one of them be -1.")
            )
        return data, fsdp, expert, model

    def build(self, devices: list[jax.Device] | None = None) -> Mesh:
        """The mesh over `devices` (default: all). Raises SpecError as `solved`, and where slices do not divide `data`."""
        devices = jax.devices() if devices is None else devices
        sizes, types = self.solved(len(devices)), (AxisType.Auto,) * len(AXIS_NAMES)
        slices = len({getattr(device, "slice_index", 0) for device in devices})
        if slices == 1:
            try:
                return jax.make_mesh(sizes, AXIS_NAMES, axis_types=types, devices=devices)
            except NotImplementedError:  # eight devices of a cube of 4 x 4 x 4 are one side of it and half of another
                grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
                return Mesh(grid, AXIS_NAMES, axis_types=types)
        if sizes[0] % slices:
            raise SpecError(f"mesh {self.named}: data={sizes[0]} must be a multiple of the {slices} slices.")
        within = (sizes[0] // slices, *sizes[1:])
        grid = mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)
        return Mesh(grid, AXIS_NAMES, axis_types=types)

    def abstract(self, num_devices: int) -> AbstractMesh:
        """The mesh without devices. Raises SpecError as `solved`."""
        return AbstractMesh(self.solved(num_devices), AXIS_NAMES, axis_types=(AxisType.Auto,) * len(AXIS_NAMES))
