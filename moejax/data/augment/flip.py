"""Horizontal mirroring."""

import dataclasses
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flip:
    """Each picture is mirrored left to right with `probability`. Not for digits or letters: limit its `domains`. Source: ours."""

    order: ClassVar[int] = 30
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise SpecError(f"augment.flip.probability={self.probability} must lie in [0, 1].")

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        chosen = np.flatnonzero(rng.random(len(images)) < self.probability)
        images = images.copy()
        images[chosen] = images[chosen].take(np.arange(images.shape[2])[::-1], axis=2)
        return images


EXAMPLES = (Flip(), Flip(probability=1.0))
