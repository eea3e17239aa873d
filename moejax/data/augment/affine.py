"""Rotation, scaling, shear and translation of small pictures, all in one interpolation."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError

CHUNK = 16  # pictures at a time: the intermediate arrays of small pictures stay in the cache


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
        if min(self.rotate, self.scale, self.shear, self.translate) < 0 or max(self.scale, self.translate) >= 1:
            raise SpecError(
                f"{self}: no field may be negative; scale and translate (fractions of 1) must stay below 1."
            )

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        count, height, width, _ = images.shape
        angle, scale, shear, down, right = (
            rng.uniform(-limit, limit, (count, 1, 1)).astype(np.float32)
            for limit in (math.radians(self.rotate), self.scale, self.shear, self.translate, self.translate)
        )
        zoom = 1 / (1 + scale)
        cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
        y = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2) - down * height
        x = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2) - right * width
        out = np.empty_like(images)
        for start in range(0, count, CHUNK):
            part = slice(start, start + CHUNK)
            source_y = cos[part] * y[part] - sin[part] * x[part]
            source_x = sin[part] * y[part] + cos[part] * x[part] + shear[part] * source_y
            source_y += np.float32((height - 1) / 2)
            source_x += np.float32((width - 1) / 2)
            out[part] = sample_bilinear(images[part], source_y, source_x)
        return out


def sample_bilinear(images: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Images [B h w c] at real coordinates y, x [B h' w'] (pixels, clipped to the border) -> uint8 [B h' w' c]."""
    height, width, channels = images.shape[1:]
    y, x = np.clip(y, 0.0, height - 1.0), np.clip(x, 0.0, width - 1.0)
    top, left = y.astype(np.intp), x.astype(np.intp)
    # weights in eighths of a pixel: the product of two and 255 fits in int16, which is twice as fast as float
    dy, dx = (
        np.repeat((v * 8 + 0.5).astype(np.int16)[..., None], channels, axis=-1)
        for v in (y - np.floor(y), x - np.floor(x))
    )
    down = (top < height - 1) * width
    right = left < width - 1
    corner = (np.arange(len(images))[:, None, None] * height + top) * width + left
    pixels = images.reshape(-1, channels).astype(np.int16)
    upper = _between(pixels, corner, right, dx)
    lower = _between(pixels, corner + down, right, dx)
    return ((upper * 8 + (lower - upper) * dy + 32) >> 6).astype(np.uint8)


def _between(pixels: np.ndarray, left: np.ndarray, step: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Eight times the value between pixel `left` and pixel `left + step`, `weight` eighths of the way."""
    first = pixels.take(left, axis=0)
    return first * 8 + (pixels.take(left + step, axis=0) - first) * weight


EXAMPLES = (Affine(), Affine(rotate=0.0, scale=0.0, translate=0.2, shear=0.1))
