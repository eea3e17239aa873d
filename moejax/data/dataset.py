"""What a data source opens into, and the data set that training and evaluation see.

A source (one file in this room, named in the config) opens into splits: arrays in memory, or records on disk.
A `Dataset` joins them with a `Pipeline`, and hands out batches.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.data.iterators import MemoryIterator, TrainIterator
from moejax.data.pipeline import Pipeline
from moejax.data.resize import fit_batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What a model and a report must know of a data set.

    class_domains: index into `domain_names` for every class. image_shape: (height, width, channels) of the batches.
    split_sizes: pictures of each split. value_range: the values that the batches' pictures take.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    class_domains: tuple[int, ...]
    image_shape: tuple[int, int, int]
    split_sizes: Mapping[str, int]
    value_range: Any


@dataclasses.dataclass(frozen=True)
class ArraySplit:
    """A split in memory. images: uint8 [n h w c]; labels: int32 [n]; attributes: further columns of n entries."""

    images: np.ndarray
    labels: np.ndarray
    attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] not in (1, 3):
            raise SpecError(
                f"Pictures must be uint8 [n h w 1 or 3] with values 0 to 255, not {self.images.dtype}"
                f"{list(self.images.shape)}."
            )
        if len(self.images) != len(self.labels):
            raise SpecError(f"{len(self.images)} pictures, but {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: np.ndarray) -> "ArraySplit":
        """The pictures at `index`, with their labels and attributes."""
        return ArraySplit(self.images[index], self.labels[index], {k: v[index] for k, v in self.attributes.items()})


@runtime_checkable
class Records(Protocol):
    """A split on disk: random access to {'image': uint8 [h w c] of any size, 'label': int}."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """What a source opens into: its classes, and its splits by name ('train', 'validation', 'test').

    image_shape: of records that all have one; None: they differ, or the splits are arrays.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, ArraySplit | Records]
    domain_names: tuple[str, ...] = ("all",)
    class_domains: tuple[int, ...] | None = None
    image_shape: tuple[int, ...] | None = None


@runtime_checkable
class Source(Protocol):
    """A frozen spec that finds a data set and opens it."""

    def open(self) -> Opened:
        """Raises SpecError that says what to run when the data set is not there."""
        ...


class Dataset:
    """Splits joined with a pipeline. Build it with `moejax.data.build`."""

    def __init__(self, name: str, opened: Opened, pipeline: Pipeline):
        self.pipeline = pipeline
        self._splits = {key: _prepare(split, pipeline) for key, split in opened.splits.items()}
        domains = opened.class_domains or (0,) * len(opened.class_names)
        self.info = DatasetInfo(
            name=name,
            num_classes=len(opened.class_names),
            class_names=opened.class_names,
            domain_names=opened.domain_names,
            class_domains=domains,
            image_shape=_image_shape(self._splits, opened.image_shape, pipeline),
            split_sizes={key: len(split) for key, split in self._splits.items()},
            value_range=pipeline.value_range,
        )
        pipeline.check(self.info)

    @property
    def batch_size(self) -> int:
        """Examples of a training batch over all processes."""
        return self.pipeline.batch_size

    def train_iterator(self, *, seed: int, num_processes: int = 1, process: int = 0) -> TrainIterator:
        """Endless training batches, a function of (seed, position) alone.

        Each epoch is a new permutation; its last, incomplete batch is dropped. `batch_size` counts the pictures of
        all processes: each of them gets its `batch_size / num_processes` rows of the batch that one process would see.
        Batches: 'image' float32 [B h w c], 'label' int32 [B], and under mixup, cutmix or `one_hot` 'target' [B N].
        """
        share = self.pipeline.share(num_processes, process)
        split = self.split("train")
        if isinstance(split, ArraySplit):
            return MemoryIterator(split.images, split.labels, self.pipeline, self.info, seed=seed, share=share)
        from moejax.data.record_iterator import RecordIterator  # imports grain, which sets in memory do not need

        return RecordIterator(split, self.pipeline, self.info, seed=seed, share=share)

    def eval_batches(self, split: str, *, num_processes: int = 1, process: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Every picture of `split` once: 'image', 'label', and 'mask' [B], False where the last batch is filled up.

        The order is shuffled, always the same way: splits often lie sorted by class, and routers that share slots
        within a group would meet other mixtures of pictures than in training. The last batch is filled up with pictures
        of the split for the same reason. All processes give equally many batches of `eval_batch_size / num_processes`.
        """
        data = self.split(split)
        size = self.pipeline.eval_share(num_processes)
        order = np.random.default_rng(0).permutation(len(data))
        for start in range(0, len(data), size * num_processes):
            position = np.arange(start + process * size, start + (process + 1) * size)
            images, labels = self._read(data, order[position % len(data)])
            yield {"image": self.normalise(images), "label": labels, "mask": position < len(data)}

    def examples(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(pictures uint8 [n h w c], labels int32 [n]) of a whole split; meant for small sets."""
        data = self.split(split)
        return self._read(data, np.arange(len(data)))

    def attributes(self, split: str) -> Mapping[str, np.ndarray]:
        """Further columns of a split in memory ('caption', 'style' of the pictograms ...); may be empty."""
        return getattr(self.split(split), "attributes", {})

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """uint8 pictures -> float32 in the pipeline's value range."""
        return self.pipeline.normalise(images)

    def split(self, name: str) -> ArraySplit | Records:
        """The split `name`; SpecError when there is none."""
        if name not in self._splits:
            raise SpecError(f"Data set has no split {name!r}.{did_you_mean(name, self._splits)}")
        return self._splits[name]

    def _read(self, split: ArraySplit | Records, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(split, ArraySplit):
            return split.images[index], split.labels[index]
        shape = self.info.image_shape
        records = [split[int(i)] for i in index]
        images = [self.pipeline.fit_for_eval(record["image"], shape) for record in records]
        labels = np.array([record["label"] for record in records], np.int32)
        return np.stack(images) if images else np.zeros((0, *shape), np.uint8), labels


def _prepare(split: ArraySplit | Records, pipeline: Pipeline) -> ArraySplit | Records:
    """Cuts to `max_examples` (evenly spread, so that every class stays), sets channels and size of arrays."""
    limit = pipeline.max_examples
    index = None if limit is None or limit >= len(split) else np.arange(limit) * len(split) // limit
    if not isinstance(split, ArraySplit):
        return split if index is None else Subset(split, index)
    split = split if index is None else split.take(index)
    images = fit_batch(split.images, pipeline.image_size, pipeline.channels)
    return dataclasses.replace(split, images=images, labels=split.labels.astype(np.int32))


class Subset:
    """The records at `index` of another split."""

    def __init__(self, records: Records, index: np.ndarray):
        self._records, self._index = records, index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._records[int(self._index[index])]


def _image_shape(
    splits: Mapping[str, ArraySplit | Records], fixed: tuple[int, ...] | None, pipeline: Pipeline
) -> tuple[int, int, int]:
    shapes = {key: split.images.shape[1:] for key, split in splits.items() if isinstance(split, ArraySplit)}
    if len(set(shapes.values())) > 1:
        raise SpecError(f"Splits hold pictures of different sizes: {shapes}. Set data.image_size to one.")
    if shapes:
        height, width, channels = next(iter(shapes.values()))
        return height, width, channels
    if pipeline.image_size is None and fixed is not None:
        return fixed[0], fixed[1], pipeline.channels
    if pipeline.image_size is None:
        raise SpecError("Pictures on disk may differ in size: set data.image_size, for example to 224.")
    return pipeline.image_size, pipeline.image_size, pipeline.channels
