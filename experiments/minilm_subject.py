"""The packaged MiniLM as a subject of compression, on passages from Python's own documentation.

Passages have `LENGTH` tokens each and no padding: 256 for calibration by seed, 256 held out, from other modules. They are
on every machine, English, and cover many matters; the library's version and a digest of the texts are in the record.
"""

import platform
from typing import Any

from moejax.data.docstrings import digest, passages
from moejax.evals.text_encoder_subject import TextEncoderSubject
from moejax.interop import minilm

LENGTH = 64
NUM_TEXTS = 256


def build(*, length: int = LENGTH, calibration: int = NUM_TEXTS, held_out: int = NUM_TEXTS) -> TextEncoderSubject:
    """The subject. Raises SpecError where the packages are missing, saying how to get them."""

    def tokens(texts: list[str]) -> Any:
        return minilm.tokenize(texts, length=length)[0]  # as many words are at least as many tokens: nothing is padded

    return TextEncoderSubject(
        name="minilm",
        encoder=minilm.ENCODER,
        params=minilm.load_params(),
        calibration=lambda seed: tokens(passages("calibration", calibration, words=length, seed=seed)),
        held_out=tokens(passages("held_out", held_out, words=length)),
    )


def texts_used(*, length: int = LENGTH, calibration: int = NUM_TEXTS, held_out: int = NUM_TEXTS) -> dict[str, str]:
    """Which texts these are: the version of Python, and a digest of what is held out and of each calibration draw."""
    drawn = {f"seed {seed}": digest(passages("calibration", calibration, words=length, seed=seed)) for seed in range(3)}
    return {
        "python": platform.python_version(),
        "held out": digest(passages("held_out", held_out, words=length)),
    } | drawn
