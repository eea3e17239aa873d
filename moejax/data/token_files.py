"""The user's own text as numbers of any tokenizer: arrays of token ids, one file for each split.

    token_bytes.npy   integers [vocabulary]: how many bytes of text each token stands for; 0 for those that stand for none
    train.npy, validation.npy, test.npy
                      integers [tokens]: documents one after the other, with whatever the tokenizer puts between them

`validation.npy` and `test.npy` may be left out. Files are mapped into memory, not read, and never unpickled. Source: ours.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Integer

from moejax.core.errors import SpecError
from moejax.data.prepare.archives import inside
from moejax.data.text_dataset import OpenedTokens, TextPipeline

SPLITS = ("train", "validation", "test")
BYTES = "token_bytes.npy"
CHUNK = 2**24  # tokens that are looked at together


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFiles:
    """folder: of the files that the module names."""

    pipeline: ClassVar[type] = TextPipeline

    folder: str

    def open(self) -> OpenedTokens:
        """Raises SpecError for files that are not there or broken, that hold no integers, and ids outside the vocabulary."""
        root = Path(self.folder).expanduser()
        if not root.is_dir():
            raise SpecError(f"data.folder={self.folder!r} is no folder; give one that holds train.npy and {BYTES}.")
        token_bytes = np.asarray(_load(root, BYTES))
        if token_bytes.min() < 0:
            raise SpecError(f"{root / BYTES} holds {token_bytes.min()}; no token stands for fewer than 0 bytes.")
        found = {
            split: _load(root, f"{split}.npy")
            for split in SPLITS
            if split == "train" or (root / f"{split}.npy").exists()
        }
        digest = hashlib.sha256(token_bytes.astype("<i8").tobytes())
        split_bytes = {}
        for split, tokens in found.items():
            digest.update(split.encode())
            split_bytes[split] = _look_at(root / f"{split}.npy", tokens, token_bytes, digest)
        return OpenedTokens(
            splits=found,
            token_bytes=token_bytes.astype(np.int32),
            split_bytes=split_bytes,
            fingerprint=digest.hexdigest()[:16],
        )


def _load(root: Path, name: str) -> Integer[np.ndarray, " n"]:
    path = inside(root, name, what="data.folder")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise SpecError(
            f"{path} is not there; data set token_files needs train.npy and {BYTES} in its folder."
        ) from error
    except (ValueError, OSError, EOFError) as error:
        raise SpecError(f"{path} is no whole .npy file of numbers: {error}") from error
    if found.ndim != 1 or found.dtype.kind not in "iu" or not found.size:
        raise SpecError(f"{path} holds {found.dtype} {list(found.shape)}; one axis of integers, not empty, is needed.")
    return found


def _look_at(
    path: Path, tokens: Integer[np.ndarray, " n"], token_bytes: Integer[np.ndarray, " N"], digest: "hashlib._Hash"
) -> int:
    """The bytes of text of all tokens, which are added to the digest; SpecError for one outside the vocabulary."""
    vocabulary, size = len(token_bytes), 0
    for start in range(0, len(tokens), CHUNK):
        part = np.asarray(tokens[start : start + CHUNK])
        wrong = np.flatnonzero((part < 0) | (part >= vocabulary))
        if wrong.size:
            raise SpecError(
                f"{path}: token {part[wrong[0]]} at {start + wrong[0]} is not from 0 to {vocabulary - 1}, the vocabulary of {BYTES}."
            )
        digest.update(part.astype("<i4").tobytes())
        size += int(token_bytes[part].sum(dtype=np.int64))
    return size


EXAMPLES = (TokenFiles(folder="tokens"),)
