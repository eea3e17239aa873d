"""Random shifts: pad, then crop to the old size."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PadCrop:
    """Each picture is shifted by -pad..pad pixels both ways; `fill` is the border's colour.

    fill: 'edge' repeats the border pixel (black garments and white pictograms each get their own), 'zero' is black.
    Source: He et al. 2016, "Deep Residual Learning", section 4.2 (there 4 pixels of zeros).
    """

    order: ClassVar[int] = 20
    pad: int = 4
    fill: Literal["edge", "zero"] = "edge"

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise SpecError(f"augment.pad_crop.pad={self.pad} must not be negative.")

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """SpecError when whole pictures could be shifted away."""
        if self.pad >= min(image_shape[:2]):
            raise SpecError(f"augment.pad_crop.pad={self.pad} is not smaller than the picture, {image_shape[:2]}.")

    def apply(self, rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
        """uint8 [B h w c] -> the same shape."""
        height, width = images.shape[1:3]
        padding = ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0))
        padded = np.pad(images, padding, mode="edge" if self.fill == "edge" else "constant")
        shifts = rng.integers(0, 2 * self.pad + 1, (len(images), 2))
        out = np.empty_like(images)
        for i, (top, left) in enumerate(shifts.tolist()):
            out[i] = padded[i, top : top + height, left : left + width]
        return out


EXAMPLES = (PadCrop(), PadCrop(pad=2, fill="zero"))
