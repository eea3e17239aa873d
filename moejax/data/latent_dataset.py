"""A data set of cached latents: batches as of pictures, but float, and drawn anew from each latent's Gaussian every time."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from moejax.core.errors import SpecError
from moejax.data.dataset import Dataset, DatasetInfo
from moejax.data.iterators import MemoryIterator, TrainIterator
from moejax.data.latent_cache import CachedSplit
from moejax.data.pipeline import Pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedLatents:
    """What a source of latents opens into. shape: of one latent. scale: what the autoencoder multiplied by."""

    class_names: tuple[str, ...]
    splits: Mapping[str, CachedSplit]
    shape: tuple[int, int, int]
    scale: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentPipeline(Pipeline):
    """The pipeline of latents: batch sizes and `max_examples` alone."""

    def check(self, info: Any) -> None:
        """SpecError when the batch is larger than the training split, or something is set that latents cannot follow."""
        self.check_size(info.name, info.split_sizes["train"], examples="latents")
        side = info.image_shape[0]
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Pipeline)}
        plain = {field.name: getattr(Pipeline(), field.name) for field in dataclasses.fields(Pipeline)}
        free = {"batch_size", "eval_batch_size", "max_examples"} | (
            {"image_size"} if self.image_size == side else set()
        )
        wrong = [name for name in own if name not in free and own[name] != plain[name]]
        if wrong:
            raise SpecError(
                f"data.{wrong[0]} does not apply to latents {list(info.image_shape)}: size, range and augmentation were "
                "settled when the cache was written."
            )

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Latents as they are, float32."""
        return images.astype(np.float32)

    def batch(
        self, rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, info: Any, *, cropped: bool = False
    ) -> Mapping[str, Any]:
        """A batch of latents drawn from mean and standard deviation [B 2 h w c]."""
        mean, std = images[:, 0], images[:, 1]
        noise = rng.standard_normal(mean.shape, np.float32)
        return {"image": mean + std * noise, "label": labels.astype(np.int32)}


class LatentDataset(Dataset):
    """`Dataset` over a cache: 'image' is a latent float32 [B h w c], scaled."""

    def __init__(self, name: str, opened: OpenedLatents, pipeline: Pipeline):
        own = {field.name: getattr(pipeline, field.name) for field in dataclasses.fields(Pipeline)}
        self.pipeline = LatentPipeline(**own)
        limit = pipeline.max_examples
        splits = {key: _evenly(split, limit) for key, split in opened.splits.items()}
        self.info = DatasetInfo(
            name=name,
            num_classes=len(opened.class_names),
            class_names=opened.class_names,
            domain_names=("all",),
            class_domains=(0,) * len(opened.class_names),
            image_shape=opened.shape,
            split_sizes={key: len(split) for key, split in splits.items()},
            value_range="latent",
        )
        self._splits: Any = splits
        self.pipeline.check(self.info)

    def train_iterator(self, *, seed: int, num_processes: int = 1, process: int = 0) -> TrainIterator:
        """As of pictures: a function of (seed, position) alone. Each visit of a latent draws it anew."""
        share = self.pipeline.share(num_processes, process)
        split: Any = self.split("train")
        return MemoryIterator(split, split.labels, self.pipeline, self.info, seed=seed, share=share)

    def _read(self, split: Any, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One draw of each latent, the same whenever it is read, whatever it is read with."""
        pairs = split[index]
        noise = [np.random.default_rng((0, int(i))).standard_normal(pairs.shape[2:], np.float32) for i in index]
        drawn = pairs[:, 0] + pairs[:, 1] * np.reshape(noise, pairs[:, 0].shape)
        return drawn.astype(np.float32), split.labels[index]


def _evenly(split: CachedSplit, limit: int | None) -> CachedSplit:
    """At most `limit` latents, evenly spread, so that every class stays."""
    if limit is None or limit >= len(split):
        return split
    return split.take(np.arange(limit) * len(split) // limit)
