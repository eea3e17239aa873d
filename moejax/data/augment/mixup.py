"""Mixup: pictures and targets are averaged in pairs."""

import dataclasses
from typing import ClassVar

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixup:
    """x = w x_i + (1 - w) x_j and the same for the targets, w ~ Beta(alpha, alpha) per picture, j a permutation.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", equation (1).
    Deviations: `probability` leaves some pictures as they are.
    """

    order: ClassVar[int] = 90
    alpha: float = 0.2
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha <= 0 or not 0 <= self.probability <= 1:
            raise SpecError(f"{self}: alpha must be positive (leave mixup out instead of 0), probability in [0, 1].")

    def mix(self, rng: np.random.Generator, images: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 [B h w c] and [B N] -> the same shapes."""
        weight = rng.beta(self.alpha, self.alpha, len(images))
        weight[rng.random(len(images)) >= self.probability] = 1.0
        weight = weight.astype(np.float32)
        other = rng.permutation(len(images))
        rest = 1 - weight
        mixed = images * weight[:, None, None, None]
        mixed += images[other] * rest[:, None, None, None]
        return mixed, target * weight[:, None] + target[other] * rest[:, None]


EXAMPLES = (Mixup(), Mixup(alpha=1.0, probability=0.5))
