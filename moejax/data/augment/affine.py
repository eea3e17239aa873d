"""Rotation, scaling, shear and translation of small pictures, all in one interpolation."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Affine:
    """Each picture gets its own map around its centre, each part uniform: -rotate..rotate degrees, scale
    1-scale..1+scale, shear -shear..shear (pixels across per pixel down), shift -translate..translate of its side.

    Bilinear with weights in eighths; outside the picture its border repeats. Source: ours.
    """

    order: ClassVar[int] = 25
    rotate: float = 10.0
    scale: float = 0.1
    shear: float = 0.0
    translate: float = 0.0

    def __post_init__(self) -> None:
        if min(self.rotate, self.scale, self.shear, self.translate) < 0 or self.scale >= 1:
            raise SpecError(f"{self}: no field may be negative, and scale must stay below 1.")

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        count, height, width, _ = images.shape
        angle, scale, shear, down, right = (
            rng.uniform(-limit, limit, (count, 1, 1)).astype(np.float32)
            for limit in (math.radians(self.rotate), self.scale, self.shear, self.translate, self.translate)
        )
        y, x = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")
        y, x = y - (height - 1) / 2 - down * height, x - (width - 1) / 2 - right * width
        zoom = 1 / (1 + scale)
        source_y = (np.cos(angle) * y - np.sin(angle) * x) * zoom
        source_x = (np.sin(angle) * y + np.cos(angle) * x) * zoom + shear * source_y
        return sample_bilinear(images, source_y + (height - 1) / 2, source_x + (width - 1) / 2)


def sample_bilinear(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Images [B h w c] at real coordinates y, x [B h' w'] (pixels, clipped to the border) -> uint8 [B h' w' c]."""
    height, width = images.shape[1:3]
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = y.astype(np.int32), x.astype(np.int32)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    # weights in eighths of a pixel: the product of two and 255 fits in int16, which is twice as fast as float
    dy, dx = ((v * 8).astype(np.int16)[..., None] for v in (y - top, x - left))
    rows = np.arange(len(images), dtype=np.int32)[:, None, None] * height
    flat = images.reshape(-1, images.shape[-1])
    upper = flat[(rows + top) * width + left] * (8 - dx) + flat[(rows + top) * width + right] * dx
    lower = flat[(rows + bottom) * width + left] * (8 - dx) + flat[(rows + bottom) * width + right] * dx
    return ((upper * (8 - dy) + lower * dy + 32) >> 6).astype(np.uint8)


EXAMPLES = (Affine(), Affine(rotate=0.0, scale=0.0, translate=0.2, shear=0.1))
