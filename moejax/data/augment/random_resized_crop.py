"""Inception crops: a random part of the picture, of random area and aspect, resized."""

import dataclasses
import math
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError
from moejax.data.resize import resize


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A crop of area `min_area`..1 of the picture and aspect 1/`max_aspect`..`max_aspect`, resized to the batch's size.

    Source: Szegedy et al. 2015, "Going Deeper with Convolutions", section 6 (area 8 % to 100 %, aspect 3/4 to 4/3).
    Deviations: the aspect is log-uniform; after 10 draws that do not fit, the largest centred square is taken.
    """

    order: ClassVar[int] = 10
    min_area: float = 0.08
    max_aspect: float = 4 / 3

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1 or self.max_aspect < 1:
            raise SpecError(f"{self}: min_area must lie in (0, 1], max_aspect must be at least 1.")

    def crop(self, rng: np.random.Generator, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """One picture uint8 [h w c] of any size -> [height width c]."""
        top, left, height, width = self._box(rng, image.shape[0], image.shape[1])
        return resize(image[top : top + height, left : left + width], size)

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        if not len(images):
            return images
        return np.stack([self.crop(rng, image, images.shape[1:3]) for image in images])

    def _box(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        limit = math.log(self.max_aspect)
        for _ in range(10):
            area = rng.uniform(self.min_area, 1) * height * width
            aspect = math.exp(rng.uniform(-limit, limit))
            h, w = max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))
            if h <= height and w <= width:
                return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
        side = min(height, width)
        return (height - side) // 2, (width - side) // 2, side, side


EXAMPLES = (RandomResizedCrop(), RandomResizedCrop(min_area=0.5, max_aspect=1.0))
