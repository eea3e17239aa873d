"""What the copy engine and the matrix unit ask of arrays in memory, and the padding that gives it to them."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from moejax_kernels import _compat
from moejax_kernels.hopper.row_tiles import ALIGNED
from moejax_kernels.platforms import has_mosaic_gpu, target

SWIZZLE = 128  # bytes of a row that lie together in shared memory
COLUMNS = 64  # of a 16-bit type: 128 bytes


def check_runs(dtype: Any, interpret: Any) -> None:
    """Raises ValueError for what the matrix unit does not multiply without loss, and for a GPU that has no such unit."""
    if jnp.dtype(dtype) not in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16)):
        raise ValueError(
            f"implementation='pallas_gpu' multiplies bfloat16 and float16, not {jnp.dtype(dtype)} (the matrix unit would "
            "round float32 to 10 bits of mantissa); cast to bfloat16, or take implementation='xla'."
        )
    chip = target()
    if _compat.gpu_interpreter(interpret) is None and chip.platform == "gpu" and not has_mosaic_gpu(chip):
        raise ValueError(
            f"implementation='pallas_gpu' needs the warpgroup instructions of NVIDIA Hopper (compute capability 9.x), and "
            f"this program is traced for {chip.kind!r}; take implementation='xla'."
        )


def swizzled(dtype: Any, *, rows: int = ALIGNED) -> tuple[Any, ...]:
    """Transforms of a tile in shared memory that spread its rows over the banks: pieces of `rows` by 128 bytes.

    rows: 8 for the matrix unit, 1 for a tile that copies may take from any row on.
    """
    return plgpu.TilingTransform((rows, SWIZZLE // jnp.dtype(dtype).itemsize)), plgpu.SwizzleTransform(SWIZZLE)


def round_up(size: int, multiple: int) -> int:
    """The next multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def columns_of(size: int, tile: int, interpret: Any) -> int:
    """The size of a padded column axis: a multiple of 64; of the tile where the interpreter does not clip copies."""
    return round_up(size, COLUMNS if _compat.copies_are_clipped(interpret) else tile)


def rows_of(size: int, tile: int, interpret: Any) -> int:
    """The size of a padded row axis: a multiple of 8; a tile more where the interpreter does not clip copies."""
    return round_up(size, ALIGNED) + (0 if _compat.copies_are_clipped(interpret) else tile)


def padded(array: Array, *sizes: int) -> Array:
    """The array with zeros up to `sizes` along its last axes; the array itself, without a copy, where it has them."""
    kept = array.shape[: array.ndim - len(sizes)]
    if array.shape == (*kept, *sizes):
        return array
    held = array.shape[array.ndim - len(sizes) :]
    return jnp.pad(array, [(0, 0)] * len(kept) + [(0, size - had) for size, had in zip(sizes, held, strict=True)])


def cut(array: Array, *sizes: int) -> Array:
    """The array without padding."""
    return array if array.shape == sizes else jax.lax.slice(array, (0,) * len(sizes), sizes)
