"""Random brightness and contrast."""

import dataclasses
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColourJitter:
    """x -> (x - m) a + m + 255 b per picture; a in 1-contrast..1+contrast, b in -brightness..brightness, m its mean.

    Source: ours (contrast around the mean as in Pillow's ImageEnhance; brightness is added, not multiplied).
    """

    order: ClassVar[int] = 60
    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self) -> None:
        if not (0 <= self.brightness <= 1 and 0 <= self.contrast <= 1):
            raise SpecError(f"{self}: brightness and contrast must lie in [0, 1].")

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        count = len(images)
        gain = 1 + rng.uniform(-self.contrast, self.contrast, (count, 1))
        offset = 255 * rng.uniform(-self.brightness, self.brightness, (count, 1))
        mean = images.mean(axis=(1, 2, 3))[:, None]
        tables = np.clip(np.rint((np.arange(256) - mean) * gain + mean + offset), 0, 255).astype(np.uint8)
        out = np.empty_like(images)
        for table, image, target in zip(tables, images, out, strict=True):
            np.take(table, image, out=target)
        return out


EXAMPLES = (ColourJitter(), ColourJitter(brightness=0.0, contrast=0.5))
