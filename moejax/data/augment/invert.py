"""Negatives."""

import dataclasses
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Invert:
    """Each picture becomes its negative, 255 - x, with `probability`. Source: ours."""

    order: ClassVar[int] = 70
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise SpecError(f"augment.invert.probability={self.probability} must lie in [0, 1].")

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        chosen = rng.random(len(images)) < self.probability
        return images ^ (chosen * np.uint8(255)).astype(np.uint8)[:, None, None, None]


EXAMPLES = (Invert(), Invert(probability=1.0))
