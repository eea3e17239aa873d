"""Bringing pictures to one size: resize, centre crop, channels. All on uint8."""

import numpy as np
from PIL import Image

from moejax.core.errors import SpecError


def to_pil(image: np.ndarray) -> Image.Image:
    """uint8 [h w 1 or 3] -> PIL picture ('L' or 'RGB')."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pil(image: Image.Image) -> np.ndarray:
    """PIL picture -> uint8 [h w c]."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h w c] -> [height width c] by antialiased bilinear interpolation."""
    if image.shape[:2] == tuple(size):
        return image
    return from_pil(to_pil(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def centre_crop(image: np.ndarray, size: int, *, fraction: float = 0.875) -> np.ndarray:
    """The shorter side becomes `size / fraction`, then the centre [size size c] is cut out.

    Source: the evaluation crop of Inception and ResNet (224 of 256 pixels is fraction 0.875).
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    scale = round(size / fraction) / min(height, width)
    image = resize(image, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def set_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """[... 1] -> [... 3] by repetition; SpecError for colour pictures where one channel is asked for."""
    if images.shape[-1] == channels:
        return images
    if images.shape[-1] != 1:
        raise SpecError(f"Colour pictures cannot be read with data.channels={channels}; use 3.")
    return np.repeat(images, channels, axis=-1)


def fit_batch(images: np.ndarray, size: int | None, channels: int) -> np.ndarray:
    """uint8 [n h w c] -> [n size size channels], whole pictures; `size=None` keeps height and width."""
    images = set_channels(images, channels)
    if size is None or images.shape[1:3] == (size, size):
        return images
    return np.stack([resize(image, (size, size)) for image in images])
