"""RandAugment: a few operations drawn uniformly, all with one magnitude. Through Pillow, picture by picture."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from moejax.core.errors import SpecError
from moejax.data.resize import from_pil, to_pil

MAX_MAGNITUDE = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandAugment:
    """`num_ops` operations per picture, each at `magnitude` of 10; signs are drawn.

    Source: Cubuk et al. 2020, "RandAugment", Algorithm 1 and section 4; ranges of AutoAugment (Cubuk et al. 2019,
    table 6). Deviations: no Cutout or sample pairing among the operations; uncovered corners become grey (128).
    """

    order: ClassVar[int] = 50
    num_ops: int = 2
    magnitude: float = 9.0

    def __post_init__(self) -> None:
        if self.num_ops < 1 or not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise SpecError(f"{self}: num_ops must be at least 1, magnitude in [0, {MAX_MAGNITUDE}].")

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        if not len(images):
            return images
        return np.stack([self._one(rng, image) for image in images])

    def _one(self, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        picture = to_pil(image)
        for index in rng.integers(len(OPERATIONS), size=self.num_ops):
            sign = 1.0 if rng.random() < 0.5 else -1.0
            picture = OPERATIONS[int(index)](picture, self.magnitude / MAX_MAGNITUDE, sign)
        return from_pil(picture)


Operation = Callable[[Image.Image, float, float], Image.Image]  # (picture, magnitude in [0, 1], sign)


def _map(picture: Image.Image, coefficients: tuple[float, ...]) -> Image.Image:
    grey = 128 if picture.mode == "L" else (128, 128, 128)
    return picture.transform(
        picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=grey
    )


def _rotate(picture: Image.Image, magnitude: float, sign: float) -> Image.Image:
    grey = 128 if picture.mode == "L" else (128, 128, 128)
    return picture.rotate(30 * magnitude * sign, Image.Resampling.BILINEAR, fillcolor=grey)


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, magnitude, sign: enhancer(picture).enhance(1 + 0.9 * magnitude * sign)


OPERATIONS: tuple[Operation, ...] = (
    lambda picture, magnitude, sign: picture,
    lambda picture, magnitude, sign: ImageOps.autocontrast(picture),
    lambda picture, magnitude, sign: ImageOps.equalize(picture),
    lambda picture, magnitude, sign: ImageOps.solarize(picture, round(256 * (1 - magnitude))),
    lambda picture, magnitude, sign: ImageOps.posterize(picture, 8 - round(4 * magnitude)),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _rotate,
    lambda picture, magnitude, sign: _map(picture, (1.0, 0.3 * magnitude * sign, 0.0, 0.0, 1.0, 0.0)),
    lambda picture, magnitude, sign: _map(picture, (1.0, 0.0, 0.0, 0.3 * magnitude * sign, 1.0, 0.0)),
    lambda picture, magnitude, sign: _map(picture, (1.0, 0.0, 0.45 * magnitude * sign * picture.width, 0.0, 1.0, 0.0)),
    lambda picture, magnitude, sign: _map(picture, (1.0, 0.0, 0.0, 0.0, 1.0, 0.45 * magnitude * sign * picture.height)),
)

EXAMPLES = (RandAugment(), RandAugment(num_ops=1, magnitude=5.0))
