"""Bilinear resizing as two frameworks do it, without antialiasing, for feature extractors that expect exactly one of them.

'tensorflow1': pixel i of the result lies at i * (old / new) of the old grid, the corner of a pixel and not its centre
    (`tf.image.resize_bilinear` of TensorFlow 1 with align_corners=False, which the published FID network contains).
'half_pixel': at (i + 1/2) * (old / new) - 1/2, not below 0 (`torch.nn.functional.interpolate` with align_corners=False).
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.core.errors import SpecError, did_you_mean

Grid = Literal["tensorflow1", "half_pixel"]
GRIDS = ("tensorflow1", "half_pixel")


def resize_bilinear(
    images: Float[Array, "B height width channels"], size: tuple[int, int], *, grid: str
) -> Float[Array, "B rows columns channels"]:
    """Pictures of any size -> `size` (rows, columns), in the unit they came in. Raises SpecError for an unknown grid.

    Source: TensorFlow 1, `core/kernels/image_resizer_state.h` and `resize_bilinear_op.cc`: positions in float32, along
        each row first, then across rows.
    """
    if grid not in GRIDS:
        raise SpecError(f"grid={grid!r} is unknown.{did_you_mean(grid, GRIDS)}")
    if tuple(images.shape[1:3]) == tuple(size):
        return images
    top, bottom, down = source_rows(images.shape[1], size[0], grid)
    left, right, across = source_rows(images.shape[2], size[1], grid)
    across_weight = jnp.asarray(across, images.dtype)[None, None, :, None]
    down_weight = jnp.asarray(down, images.dtype)[None, :, None, None]

    def along_rows(rows: Array) -> Array:
        first, second = rows[:, :, left], rows[:, :, right]
        return first + (second - first) * across_weight

    upper, lower = along_rows(images[:, top]), along_rows(images[:, bottom])
    return upper + (lower - upper) * down_weight


def source_rows(old: int, new: int, grid: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(index before, index after, weight of the latter) for each of `new` positions on an axis of `old` pixels."""
    scale = np.float32(old) / np.float32(new)
    index = np.arange(new, dtype=np.float32)
    if grid == "half_pixel":
        position = np.maximum(scale * (index + np.float32(0.5)) - np.float32(0.5), np.float32(0.0))
    else:
        position = index * scale
    before = np.minimum(position.astype(np.int32), old - 1)
    return before, np.minimum(before + 1, old - 1), position - before.astype(np.float32)
