"""A data set of text, as bytes of documents or as tokens of any tokenizer, read in sequences of equal length.

What a split holds stands one after the other; sequence i predicts its tokens i T + 1 to (i + 1) T, so that every token of
a split but the first is predicted exactly once per epoch. Source: ours.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer

from moejax.core.errors import SpecError, did_you_mean
from moejax.data.batch_sizes import BatchSizes
from moejax.data.byte_text import BEGIN, VOCAB_SIZE, joined
from moejax.data.iterators import MemoryIterator, TrainIterator

Documents = Mapping[str, bytes]  # by a name that does not depend on where they lie


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedText:
    """What a source of text opens into: the documents of each split. origin: what their text depends on, for records."""

    splits: Mapping[str, Documents]
    origin: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedTokens:
    """What a source of tokens opens into. splits: integers [tokens] each. token_bytes: of text, by token [vocabulary].

    split_bytes: of the text of each split. fingerprint: of all of them. padding: a token for the places behind the end of a text.
    """

    splits: Mapping[str, Integer[np.ndarray, "_"]]
    token_bytes: Integer[np.ndarray, " N"]
    split_bytes: Mapping[str, int]
    fingerprint: str
    padding: int = 0
    kind: Literal["bytes", "ids"] = "ids"
    documents: Mapping[str, int] = dataclasses.field(default_factory=dict)
    origin: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextInfo:
    """What a model and a report must know of a data set of text.

    vocab_size: tokens are below it. sequence_length: tokens that a sequence predicts, T. split_sizes: sequences of each split.
    split_bytes, split_documents: what they were cut from; documents are not known of tokens in files. fingerprint: of all names
    and texts. origin: as in `OpenedText`. kind: what a token is, a byte (`byte_text`) or an id of some tokenizer. padding: as in `OpenedTokens`.
    """

    name: str
    vocab_size: int
    sequence_length: int
    split_sizes: Mapping[str, int]
    split_bytes: Mapping[str, int]
    split_documents: Mapping[str, int]
    fingerprint: str
    origin: str = ""
    kind: Literal["bytes", "ids"] = "bytes"
    padding: int = BEGIN


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPipeline(BatchSizes):
    """batch_size, eval_batch_size: sequences of a batch over all processes. sequence_length: tokens of a sequence, T.

    max_examples: at most so many sequences per split, evenly spread.
    """

    batch_size: int = 32
    eval_batch_size: int = 32
    sequence_length: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sequence_length < 1:
            raise SpecError(f"data.sequence_length={self.sequence_length} must be at least 1.")

    def batch(
        self, rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, info: Any, *, cropped: bool = False
    ) -> dict[str, np.ndarray]:
        """'tokens' and 'target' int32 [B T] from rows [B T+1]; nothing is drawn."""
        del rng, labels, cropped
        return inputs_and_targets(images, padding=info.padding)


def inputs_and_targets(rows: Integer[np.ndarray, "B T1"], *, padding: int) -> dict[str, np.ndarray]:
    """'tokens' [B T] and the 'target' [B T] that follows each, -1 where a row has ended (its tokens are `padding` there)."""
    tokens = np.where(rows[:, :-1] < 0, padding, rows[:, :-1])
    return {"tokens": tokens.astype(np.int32), "target": rows[:, 1:].astype(np.int32)}


class Sequences:
    """The sequences of a text [tokens]: `sequences[index]` are rows int32 [n T+1], which end in -1 where the text does."""

    def __init__(self, text: Integer[np.ndarray, " M"], length: int, limit: int | None):
        count = max(-(-(len(text) - 1) // length), 0)
        self._text = text
        kept = count if limit is None else min(limit, count)
        self._starts = np.arange(kept) * count // max(kept, 1) * length
        self._offsets = np.arange(length + 1)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: np.ndarray) -> Integer[np.ndarray, "B T1"]:
        place = self._starts[index][:, None] + self._offsets
        rows = self._text[np.minimum(place, len(self._text) - 1)].astype(np.int32)
        return np.where(place < len(self._text), rows, np.int32(-1))


def as_tokens(name: str, opened: OpenedText) -> OpenedTokens:
    """Documents as bytes, each after one token that says that it begins. Raises SpecError for a split without text."""
    for split, documents in opened.splits.items():
        if not any(documents.values()):
            raise SpecError(f"{name}: split {split!r} has no text; give it documents, or leave the split out.")
    return OpenedTokens(
        splits={split: joined(list(documents.values())).astype(np.int16) for split, documents in opened.splits.items()},
        token_bytes=(np.arange(VOCAB_SIZE) != BEGIN).astype(np.int32),
        split_bytes={split: sum(map(len, documents.values())) for split, documents in opened.splits.items()},
        fingerprint=fingerprint(opened.splits),
        padding=BEGIN,
        kind="bytes",
        documents={split: len(documents) for split, documents in opened.splits.items()},
        origin=opened.origin,
    )


class TextDataset:
    """Splits of text in memory or in mapped files. Build it with `moejax.data.build`."""

    def __init__(self, name: str, opened: OpenedText | OpenedTokens, pipeline: TextPipeline):
        self.pipeline = pipeline
        tokens = as_tokens(name, opened) if isinstance(opened, OpenedText) else opened
        length, limit = pipeline.sequence_length, pipeline.max_examples
        self._splits = {key: Sequences(text, length, limit) for key, text in tokens.splits.items()}
        self._token_bytes = tokens.token_bytes
        self.info = TextInfo(
            name=name,
            vocab_size=len(tokens.token_bytes),
            sequence_length=length,
            split_sizes={key: len(split) for key, split in self._splits.items()},
            split_bytes=tokens.split_bytes,
            split_documents=tokens.documents,
            fingerprint=tokens.fingerprint,
            origin=tokens.origin,
            kind=tokens.kind,
            padding=tokens.padding,
        )
        pipeline.check_size(name, self.info.split_sizes["train"], examples="sequences")

    @property
    def batch_size(self) -> int:
        """Sequences of a training batch over all processes."""
        return self.pipeline.batch_size

    def train_iterator(self, *, seed: int, num_processes: int = 1, process: int = 0) -> TrainIterator:
        """Endless training batches, a function of (seed, position) alone; each epoch is a new permutation of the sequences.

        Batches: 'tokens' and 'target' int32 [B T]; target -1 is not counted. A saved position is refused by other text.
        """
        share = self.pipeline.share(num_processes, process)
        return TextIterator(self.split("train"), self.pipeline, self.info, seed=seed, share=share)

    def eval_batches(self, split: str, *, num_processes: int = 1, process: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Every sequence of `split` once, in a disorder that is always the same: 'tokens', 'target', 'bytes' [B], 'mask' [B].

        bytes: of the text that the targets say, documents' beginnings left out. mask: False where the last batch is filled up, with sequences of the split. All processes give equally many batches.
        """
        rows = self.split(split)
        size = self.pipeline.eval_share(num_processes)
        order = np.random.default_rng(0).permutation(len(rows))
        for start in range(0, len(rows), size * num_processes):
            position = np.arange(start + process * size, start + (process + 1) * size)
            batch = inputs_and_targets(rows[order[position % len(rows)]], padding=self.info.padding)
            target = batch["target"]
            size_of = np.where(target >= 0, self._token_bytes[np.maximum(target, 0)], 0).sum(-1)
            yield {**batch, "bytes": size_of.astype(np.int32), "mask": position < len(rows)}

    def split(self, name: str) -> Sequences:
        """The split `name`; SpecError when there is none."""
        if name not in self._splits:
            raise SpecError(f"Data set has no split {name!r}.{did_you_mean(name, self._splits)}")
        return self._splits[name]


class TextIterator(MemoryIterator):
    """Batches of sequences; its position belongs to one text, by fingerprint, and one length of sequences."""

    def __init__(self, rows: Sequences, pipeline: TextPipeline, info: TextInfo, *, seed: int, share: Any):
        super().__init__(rows, np.zeros(len(rows), np.int32), pipeline, info, seed=seed, share=share)

    def _key(self) -> dict[str, Any]:
        text = {"fingerprint": self._info.fingerprint, "sequence_length": self._info.sequence_length}
        return super()._key() | text


def fingerprint(splits: Mapping[str, Documents]) -> str:
    """The first 16 digits of the sha256 of all splits, names and texts, whatever the order they were found in."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        for name in sorted(splits[split]):
            for part in (split.encode(), name.encode(), splits[split][name]):
                digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:16]


def divided(names: list[str], order: np.ndarray, fractions: Mapping[str, float]) -> dict[str, list[str]]:
    """`names` by split: of the order given, the first parts as `fractions` say (at least one each), the rest to 'train'."""
    counts = {split: max(round(share * len(names)), 1) for split, share in fractions.items() if share > 0}
    found, start = {}, 0
    for split, count in counts.items():
        found[split] = sorted(names[i] for i in order[start : start + count])
        start += count
    return {"train": sorted(names[i] for i in order[start:])} | found
