"""Text as numbers: a document is its bytes, 0 to 255, after one token that says that a document begins.

Source: ours; models over bytes: Xue et al. 2022, "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models".
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

BEGIN = 256
VOCAB_SIZE = 257


def encode(text: str | bytes) -> Int[np.ndarray, "T"]:
    """int32 [1 + bytes]: `BEGIN`, then the bytes of the text in UTF-8."""
    content = text.encode() if isinstance(text, str) else text
    return np.concatenate([[BEGIN], np.frombuffer(content, np.uint8)]).astype(np.int32)


def decode(tokens: Iterable[Any]) -> str:
    """The text of tokens (integers, or an array [T] of them); what is no byte is left out, and bytes that are no UTF-8 become the replacement character."""
    return bytes(int(token) for token in tokens if 0 <= int(token) < BEGIN).decode(errors="replace")


def joined(documents: Sequence[bytes]) -> Int[np.ndarray, "M"]:
    """int32: all documents one after the other, each as by `encode`."""
    return np.concatenate([encode(document) for document in documents]) if documents else np.zeros(0, np.int32)
