"""CutMix: a rectangle of each picture comes from another, and targets by area."""

import dataclasses
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutMix:
    """The rectangle takes 1 - w of the area before it is clipped to the picture, w ~ Beta(alpha, alpha) per picture.

    Targets are weighted by the area that really came from each picture.
    Source: Yun et al. 2019, "CutMix", section 3.1 and Algorithm A1. Deviations: `probability` leaves some as they are.
    """

    order: ClassVar[int] = 91
    alpha: float = 1.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha <= 0 or not 0 <= self.probability <= 1:
            raise SpecError(f"{self}: alpha must be positive (leave cutmix out instead of 0), probability in [0, 1].")

    def mix(self, rng: np.random.Generator, images: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B h w c] and [B N] -> the same shapes."""
        count, height, width = images.shape[:3]
        cut = np.sqrt(1 - rng.beta(self.alpha, self.alpha, count))
        cut[rng.random(count) >= self.probability] = 0.0
        rows = _interval(rng, cut * height, height)
        columns = _interval(rng, cut * width, width)
        other = rng.permutation(count)
        mixed = images.copy()
        for i, ((top, bottom), (left, right)) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            mixed[i, top:bottom, left:right] = images[other[i], top:bottom, left:right]
        area = (rows[:, 1] - rows[:, 0]) * (columns[:, 1] - columns[:, 0])
        weight = (1 - area / (height * width)).astype(np.float32)[:, None]
        return mixed, target * weight + target[other] * (1 - weight)


def _interval(rng: np.random.Generator, length: np.ndarray, limit: int) -> np.ndarray:
    """[B 2] begin and end of an interval around a uniform centre, clipped to [0, limit]."""
    centre = rng.integers(0, limit, len(length))
    half = length.astype(np.int64) // 2
    return np.stack([np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)], axis=1)


EXAMPLES = (CutMix(), CutMix(alpha=0.5, probability=0.5))
