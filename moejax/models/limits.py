"""Checks that models share: sizes, patches, where MoE layers stand, whole groups of tokens."""

import math
from typing import Any

from moejax.core.errors import SpecError
from moejax.layers.moe import MoE


def check_sizes(spec: Any, names: tuple[str, ...]) -> None:
    """Raises SpecError for a field of `names` below 1."""
    for name in names:
        if getattr(spec, name) < 1:
            raise SpecError(f"{name}={getattr(spec, name)} must be at least 1.")


def check_patches(patch_size: int, image_size: int) -> None:
    """Raises SpecError when patches do not tile a picture, naming the nearest sizes that they do tile."""
    if image_size % patch_size:
        low = image_size // patch_size * patch_size
        raise SpecError(
            f"patch_size={patch_size} does not divide image_size={image_size}; "
            f"resize the pictures to {' or '.join(str(s) for s in (low, low + patch_size) if s)}."
        )


def check_pictures(shape: tuple[int, ...], image_size: int, channels: int) -> None:
    """Raises SpecError when pictures of `shape` [B height width channels] are not those of the spec."""
    expected = (image_size, image_size, channels)
    if shape[1:] != expected:
        raise SpecError(f"pictures must be {list(expected)} (height, width, channels), found {list(shape[1:])}.")


def check_groups(moe: MoE | None, batch_size: int, num_tokens: int, *, inputs: str = "pictures") -> None:
    """Raises SpecError when the tokens of `batch_size` pictures (or other `inputs`) of `num_tokens` each make no whole groups."""
    size = moe.group_size if moe else None
    if size is not None and batch_size * num_tokens % size:
        step = size // math.gcd(size, num_tokens)
        raise SpecError(
            f"group_size={size} does not divide the {batch_size * num_tokens} tokens of {batch_size} {inputs} "
            f"of {num_tokens} tokens; use a batch that is a multiple of {step}, or group_size=None."
        )
