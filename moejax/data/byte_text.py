"""Text as numbers: a document is its bytes, 0 to 255, after one token that says that a document begins.

Source: ours; models over bytes: Xue et al. 2022, "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models".
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

BEGIN = 256
VOCAB_SIZE = 257
KINDS = ("lower case", "upper case", "digit", "space", "punctuation", "other")


def token_names() -> tuple[str, ...]:
    """What to call each token in tables: printable characters as they are, '0x0A' for other bytes, 'BEGIN'."""
    return (*(chr(byte) if 0x21 <= byte < 0x7F else f"0x{byte:02X}" for byte in range(BEGIN)), "BEGIN")


def token_kinds() -> tuple[int, ...]:
    """The index into `KINDS` of each token; bytes above 127 are 'other'."""

    def kind(byte: int) -> str:
        character = chr(byte)
        if byte > 127 or not (character.isprintable() or character.isspace()):
            return "other"
        tests = {"lower case": str.islower, "upper case": str.isupper, "digit": str.isdigit, "space": str.isspace}
        return next((name for name, test in tests.items() if test(character)), "punctuation")

    return (*(KINDS.index(kind(byte)) for byte in range(BEGIN)), KINDS.index("other"))


def encode(text: str | bytes) -> Int[np.ndarray, "T"]:
    """int32 [1 + bytes]: `BEGIN`, then the bytes of the text in UTF-8."""
    content = text.encode() if isinstance(text, str) else text
    return np.concatenate([[BEGIN], np.frombuffer(content, np.uint8)]).astype(np.int32)


def decode(tokens: Iterable[Any]) -> str:
    """The text of tokens (integers, or an array [T] of them); what is no byte is left out, and bytes that are no UTF-8 become the replacement character."""
    return bytes(int(token) for token in tokens if 0 <= int(token) < BEGIN).decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """ids: the tokens of a text."""

    ids: list[int]


class ByteTokenizer:
    """`encode` and `decode` in the form that the tokenizers of other models have."""

    def encode(self, text: str) -> Encoded:
        """`BEGIN`, then the bytes."""
        return Encoded(encode(text).tolist())

    def decode(self, ids: Iterable[Any]) -> str:
        """As the function `decode`."""
        return decode(ids)


def joined(documents: Sequence[bytes]) -> Int[np.ndarray, "M"]:
    """int32: all documents one after the other, each as by `encode`."""
    return np.concatenate([encode(document) for document in documents]) if documents else np.zeros(0, np.int32)
