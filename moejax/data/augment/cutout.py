"""Cutout: a square of each picture is erased."""

import dataclasses
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cutout:
    """A square of `size` pixels, its centre anywhere in the picture, becomes grey level `value`.

    Source: DeVries and Taylor 2017, "Improved Regularization of Convolutional Neural Networks with Cutout", section 3.
    Deviations: `probability` leaves some pictures whole.
    """

    order: ClassVar[int] = 80
    size: int = 8
    value: int = 128
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.value <= 255 or not 0 <= self.probability <= 1:
            raise SpecError(f"{self}: size must be >= 1, value in [0, 255], probability in [0, 1].")

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        height, width = images.shape[1:3]
        chosen = rng.random(len(images)) < self.probability
        tops = rng.integers(0, height, len(images)) - self.size // 2
        lefts = rng.integers(0, width, len(images)) - self.size // 2
        images = images.copy()
        for i, top, left in zip(np.flatnonzero(chosen), tops[chosen].tolist(), lefts[chosen].tolist(), strict=True):
            images[i, max(top, 0) : max(top + self.size, 0), max(left, 0) : max(left + self.size, 0)] = self.value
        return images


EXAMPLES = (Cutout(), Cutout(size=3, value=0, probability=0.5))
