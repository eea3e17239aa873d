"""How many examples make a batch, and which of them are a process's own: the part of a pipeline that all kinds of data share."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows that one process of many takes of each batch, all in one piece: the numbers of a batch do not depend on them.

    batch_size: rows of the whole batch. blocks: equal parts that are augmented by themselves.
    """

    batch_size: int
    blocks: int
    num_processes: int
    process: int

    @property
    def size(self) -> int:
        """Rows of this process."""
        return self.batch_size // self.num_processes

    @property
    def block_size(self) -> int:
        """Rows of a block."""
        return self.batch_size // self.blocks

    @property
    def own_blocks(self) -> range:
        """Numbers of the blocks in which this process has rows."""
        start = self.process * self.size
        return range(start // self.block_size, -(-(start + self.size) // self.block_size))

    def own_rows(self, blocks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """This process's rows of its `own_blocks`."""
        start = self.process * self.size - self.own_blocks.start * self.block_size
        alone = len(blocks) == 1  # as in most runs, where joining would only copy the batch
        joined = blocks[0] if alone else {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        return {name: array[start : start + self.size] for name, array in joined.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """batch_size, eval_batch_size: examples of a batch over all processes. max_examples: at most so many per split.

    Raises SpecError for sizes below 1.
    """

    batch_size: int = 128
    eval_batch_size: int = 256
    max_examples: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "max_examples"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SpecError(f"data.{name}={value} must be at least 1.")

    @property
    def blocks(self) -> int:
        """Equal parts of a batch with random numbers of their own."""
        return 1

    def check_size(self, name: str, num_examples: int, *, examples: str) -> None:
        """SpecError when no batch of the training split of data set `name` is ever full. examples: what they are called."""
        if self.batch_size > num_examples:
            raise SpecError(
                f"data.batch_size={self.batch_size} is larger than the training split of {name} "
                f"({num_examples} {examples}): no batch is ever full. Use a smaller batch_size."
            )

    def share(self, num_processes: int, process: int) -> Share:
        """This process's part of a training batch; SpecError when the batch does not divide."""
        if not 0 <= process < num_processes:
            raise SpecError(f"process={process} must lie in [0, num_processes={num_processes}).")
        _divide("batch_size", self.batch_size, num_processes)
        return Share(self.batch_size, self.blocks, num_processes, process)

    def eval_share(self, num_processes: int) -> int:
        """Examples per process of an evaluation batch."""
        return _divide("eval_batch_size", self.eval_batch_size, num_processes)


def _divide(name: str, size: int, num_processes: int) -> int:
    if size % num_processes:
        raise SpecError(f"data.{name}={size} does not divide by num_processes={num_processes}; make it a multiple.")
    return size // num_processes
