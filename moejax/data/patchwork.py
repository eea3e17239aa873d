"""Patchwork: 32x32 colour pictures of 29 classes in three domains, the embedded default.

Garments (10 classes, `fashion_mnist_12k`), pictograms (9, `emoji32`) and digits (10, `digits`), each with the splits
of its own file: 2,000 garments, 250 pictogram concepts and 360 digits are test.
Source: ours. Deviations from the parts: garments get a black border of 2 pixels; all are colour.
"""

import dataclasses

import numpy as np

from moejax.data.dataset import ArraySplit, Opened
from moejax.data.digits import Digits
from moejax.data.emoji32 import Emoji32
from moejax.data.fashion_mnist_12k import FashionMnist12k

SIZE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patchwork:
    """folder: where the two picture files lie, if not in the package."""

    folder: str | None = None

    def open(self) -> Opened:
        """Attributes: 'domain' (index), 'caption' and 'style' (empty for garments and digits)."""
        parts = {
            "garments": FashionMnist12k(folder=self.folder).open(),
            "pictograms": Emoji32(folder=self.folder).open(),
            "digits": Digits().open(),
        }
        counts = [len(part.class_names) for part in parts.values()]
        offsets = np.cumsum([0, *counts[:-1]])
        splits = {
            name: _join([part.splits[name] for part in parts.values()], offsets)  # type: ignore[misc]
            for name in ("train", "validation", "test")
        }
        return Opened(
            class_names=tuple(name for part in parts.values() for name in part.class_names),
            domain_names=tuple(parts),
            class_domains=tuple(domain for domain, count in enumerate(counts) for _ in range(count)),
            splits=splits,
        )


def _join(parts: list[ArraySplit], offsets: np.ndarray) -> ArraySplit:
    none = [np.full(len(part), "") for part in parts]
    return ArraySplit(
        np.concatenate([_as_patch(part.images) for part in parts]),
        np.concatenate([part.labels + offset for part, offset in zip(parts, offsets, strict=True)]).astype(np.int32),
        {
            "domain": np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts]),
            "caption": np.concatenate([p.attributes.get("caption", n) for p, n in zip(parts, none, strict=True)]),
            "style": np.concatenate([p.attributes.get("style", n) for p, n in zip(parts, none, strict=True)]),
        },
    )


def _as_patch(images: np.ndarray) -> np.ndarray:
    """uint8 [n h w c], h = w <= 32 -> [n 32 32 3] with a black border."""
    border = (SIZE - images.shape[1]) // 2
    padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    return np.repeat(padded, 3, axis=-1) if images.shape[-1] == 1 else padded


EXAMPLES = (Patchwork(),)
