"""Training batches from memory, with a position that can be saved."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from moejax.core.errors import SpecError
from moejax.data.batch_sizes import BatchSizes, Share


@runtime_checkable
class TrainIterator(Protocol):
    """Endless batches. `set_state(get_state())` continues with the identical next batch; the state is JSON-able."""

    def __iter__(self) -> "TrainIterator": ...

    def __next__(self) -> Mapping[str, np.ndarray]: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Rows(Protocol):
    """Examples that are read many at a time: an array, or a split on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


class MemoryIterator:
    """Batches of rows that are read many at a time: batch number `step` depends on (seed, step) and nothing else.

    Epoch e is the permutation drawn from (seed, e); its last `n mod batch_size` pictures are left out of that epoch.
    Source: ours.
    """

    def __init__(self, images: Rows, labels: np.ndarray, pipeline: Any, info: Any, *, seed: int, share: Share):
        self._images, self._labels, self._pipeline, self._info = images, labels, pipeline, info
        self._seed, self._share, self._step = seed, share, 0
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of one pass over the split."""
        return len(self._images) // self._pipeline.batch_size

    def __iter__(self) -> "MemoryIterator":
        return self

    def __next__(self) -> Mapping[str, np.ndarray]:
        epoch, position = divmod(self._step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._images))
            self._epoch = epoch
        size = self._pipeline.batch_size
        whole = self._order[position * size : (position + 1) * size]
        batch = self._share.own_rows([self._block(whole, number) for number in self._share.own_blocks])
        self._step += 1
        return batch

    def _block(self, whole: np.ndarray, number: int) -> Mapping[str, np.ndarray]:
        """One part of the batch of rows `whole`, with its own random numbers."""
        size = self._share.block_size
        index = whole[number * size : (number + 1) * size]
        rng = np.random.default_rng((self._seed, self._step, number, 1))
        return self._pipeline.batch(rng, self._images[index], self._labels[index], self._info)

    def get_state(self) -> dict[str, Any]:
        """The position, with what it is a position in."""
        return {"step": self._step, **self._key()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues after `state['step']` batches; SpecError when the state belongs to another stream."""
        check_position(state, self._key())
        self._step = int(state["step"])

    def _key(self) -> dict[str, Any]:
        return position_key(self._pipeline, self._seed, len(self._images))


def position_key(pipeline: BatchSizes, seed: int, num_examples: int) -> dict[str, Any]:
    """What must be equal for a position to mean the same batch."""
    return {
        "seed": seed,
        "batch_size": pipeline.batch_size,
        "num_examples": num_examples,
        "augment_blocks": pipeline.blocks,
    }


def check_position(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """SpecError naming the first entry of a saved position that differs from this iterator's."""
    for name, value in expected.items():
        if state.get(name) != value:
            raise SpecError(
                f"The saved data position has {name}={state.get(name)!r}, this run {value!r}: it is a position in "
                f"another stream. Resume with the same data config and seed, or start afresh."
            )
