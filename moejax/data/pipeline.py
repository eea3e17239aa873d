"""The pipeline spec: batch sizes, preprocessing and augmentation, the same for every source."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.data.augment import Augment
from moejax.data.batch_sizes import BatchSizes
from moejax.data.resize import centre_crop, set_channels

RANGES = ("0_1", "-1_1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanStd:
    """Pictures in [0, 1], less `mean`, divided by `std`, per channel (or one value for all)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            raise SpecError(f"value_range: mean={self.mean} and std={self.std} must be as long; std positive.")
        if not all(0 <= m <= 1 for m in self.mean):
            raise SpecError(f"value_range.mean={self.mean} must lie in [0, 1]; divide by 255 if it counts grey levels.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline(BatchSizes):
    """batch_size, eval_batch_size: pictures of a batch over all processes.

    image_size: side of the square that pictures are brought to; None keeps the size of the set.
    channels: 1 keeps grey sets grey. value_range: '0_1', '-1_1' or {mean, std}. one_hot: always give 'target'.
    crop_fraction: centre crop of pictures on disk (see `centre_crop`). max_examples: at most so many per split.
    workers: processes that read records (0: this one). storage: where training reads from: 'memory', 'records'
    (array_record files, written to `records_folder` or the cache if need be), or 'auto': as the set is, except
    that records of one small size are taken into memory. augment: see `moejax.data.augment`.
    augment_blocks: equal parts of a batch with random numbers of their own. A process augments those in which it has rows,
    so that batches do not depend on the number of processes: set a multiple of that number, and none works for another.
    """

    image_size: int | None = None
    channels: Literal[1, 3] = 3
    value_range: MeanStd | str = "-1_1"
    one_hot: bool = False
    crop_fraction: float = 0.875
    workers: int = 0
    storage: Literal["auto", "memory", "records"] = "auto"
    records_folder: str | None = None
    augment: Augment = dataclasses.field(default_factory=Augment)
    augment_blocks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.value_range, str) and self.value_range not in RANGES:
            raise SpecError(
                f"data.value_range={self.value_range!r} is unknown.{did_you_mean(self.value_range, RANGES)}"
            )
        if self.image_size is not None and self.image_size < 1:
            raise SpecError(f"data.image_size={self.image_size} must be at least 1.")
        if self.augment_blocks < 1 or self.batch_size % self.augment_blocks:
            raise SpecError(
                f"data.augment_blocks={self.augment_blocks} must divide data.batch_size={self.batch_size}; choose a divisor."
            )
        if self.workers < 0 or not 0 < self.crop_fraction <= 1:
            raise SpecError(f"data.workers={self.workers} must be >= 0, crop_fraction={self.crop_fraction} in (0, 1].")

    def check(self, info: Any) -> None:
        """SpecError when the batch, the value range or the augmentation does not fit the data set."""
        self.check_size(info.name, info.split_sizes["train"], examples="pictures")
        if isinstance(self.value_range, MeanStd) and len(self.value_range.mean) not in (1, info.image_shape[-1]):
            raise SpecError(
                f"data.value_range.mean has {len(self.value_range.mean)} values, the pictures of {info.name} "
                f"{info.image_shape[-1]} channels."
            )
        self.augment.check(info)

    @property
    def blocks(self) -> int:
        """`augment_blocks`."""
        return self.augment_blocks

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """uint8 [... c] -> float32 in the value range."""
        if isinstance(self.value_range, MeanStd):
            mean, std = (np.asarray(v, np.float32) for v in (self.value_range.mean, self.value_range.std))
        else:
            pair = (0.5, 0.5) if self.value_range == "-1_1" else (0.0, 1.0)
            mean, std = (np.asarray([v], np.float32) for v in pair)
        scaled = np.multiply(images, np.float32(1 / 255) / std, dtype=np.float32)
        if np.any(mean):
            scaled -= mean / std
        return scaled

    def fit_for_eval(self, image: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """One picture of any size -> uint8 of `shape`, without randomness."""
        return centre_crop(set_channels(image, shape[-1]), shape[0], fraction=self.crop_fraction)

    def batch(
        self, rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, info: Any, *, cropped: bool = False
    ) -> Mapping[str, Any]:
        """Augmented training batch from uint8 pictures [B h w c] and labels [B]; `cropped`: the crop is done already."""
        domains = np.asarray(info.class_domains)[labels] if self.augment.by_domain else None
        images = self.augment.images(rng, images, domains, info.domain_names, cropped=cropped)
        batch = {"image": self.normalise(images), "label": labels.astype(np.int32)}
        if self.one_hot or self.augment.mixes:
            target = np.zeros((len(labels), info.num_classes), np.float32)
            target[np.arange(len(labels)), labels] = 1
            batch["image"], batch["target"] = self.augment.mix(rng, batch["image"], target)
        return batch
