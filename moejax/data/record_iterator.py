"""Training batches from records on disk, through Grain.

Source: Grain's MapDataset: shuffle, slice, map and batch, over the permutations of all epochs; its iterator states are exact.
"""

from collections.abc import Mapping
from typing import Any

import grain
import numpy as np

from moejax.data.batch_sizes import Share
from moejax.data.iterators import check_position, position_key
from moejax.data.pipeline import Pipeline
from moejax.data.resize import set_channels


class RecordIterator:
    """As `MemoryIterator`: a permutation per epoch, and batches that do not depend on the number of processes."""

    def __init__(self, records: Any, pipeline: Pipeline, info: Any, *, seed: int, share: Share):
        self._key = position_key(pipeline, seed, len(records))
        whole = len(records) // pipeline.batch_size * pipeline.batch_size
        fit_seed, batch_seed = np.random.SeedSequence((seed, 0)).generate_state(2).tolist()
        blocks = (
            grain.MapDataset.source(_Rows(records))
            .seed(seed % 2**32)
            .shuffle()
            .slice(slice(0, whole))
            .random_map(_Fit(pipeline, info.image_shape), seed=fit_seed)
            .batch(share.block_size, drop_remainder=True)
            .random_map(_Batch(pipeline, info), seed=batch_seed)
        )
        dataset = grain.MapDataset.source(_OwnBatches(blocks, share))
        # a buffer counts batches here, not pictures: Grain's default of 500 would fill the memory
        reading = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)
        stream = dataset.to_iter_dataset(reading)
        if pipeline.workers:
            _let_workers_start()
            stream = stream.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=pipeline.workers, per_worker_buffer_size=2)
            )
        self._iterator = iter(stream)

    def __iter__(self) -> "RecordIterator":
        return self

    def __next__(self) -> Mapping[str, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """The position, with what it is a position in."""
        return {"grain": self._iterator.get_state(), **self._key}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues at a saved position; SpecError when the state belongs to another stream."""
        check_position(state, self._key)
        self._iterator.set_state(dict(state["grain"]))


class _Rows:
    """Records as a Grain source."""

    def __init__(self, records: Any):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._records[int(index)]


class _OwnBatches:
    """Endless batches of this process, from blocks by number: those behind an epoch's last come from the next permutation."""

    def __init__(self, blocks: grain.MapDataset, share: Share):
        self._blocks, self._share = blocks, share

    def __len__(self) -> int:
        return 2**31 // self._share.blocks  # block numbers stay in 31 bits

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        first = int(index) * self._share.blocks
        return self._share.own_rows([self._blocks[first + number] for number in self._share.own_blocks])


class _Fit(grain.transforms.RandomMap):
    """One picture to the batch's size: by the random crop if there is one, else resized and cut at the centre."""

    def __init__(self, pipeline: Pipeline, shape: tuple[int, int, int]):
        self._pipeline, self._shape = pipeline, shape

    def random_map(self, element: Mapping[str, Any], rng: np.random.Generator) -> Mapping[str, Any]:
        image = set_channels(element["image"], self._shape[-1])
        if crop := self._pipeline.augment.crop:
            image = crop.crop(rng, image, self._shape[:2])
        else:
            image = self._pipeline.fit_for_eval(image, self._shape)
        return {"image": image, "label": np.int32(element["label"])}


class _Batch(grain.transforms.RandomMap):
    """The pipeline's batch from stacked pictures and labels."""

    def __init__(self, pipeline: Pipeline, info: Any):
        self._pipeline, self._info = pipeline, info

    def random_map(self, element: Mapping[str, Any], rng: np.random.Generator) -> Mapping[str, Any]:
        return self._pipeline.batch(rng, element["image"], element["label"], self._info, cropped=True)


def _let_workers_start() -> None:
    """Grain's workers read absl flags, which only `absl.app.run` parses (google/grain#1355)."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
