"""English passages that are on every machine: the docstrings of Python's standard library, read and never run.

They differ a little from one version of Python to the next (and a little with how it was packaged); `digest`, and for language
models the fingerprint of the data set, say which texts were used. Modules are either for calibration or held out, for training,
validation or test, so that no passage has a neighbour on the other side.
Source: ours; the texts are under the PSF licence and are not copied into any output.
"""

import ast
import dataclasses
import functools
import hashlib
import platform
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from moejax.core.errors import SpecError
from moejax.data.packaged_files import hash_order
from moejax.data.text_dataset import OpenedText, TextPipeline, divided

NO_PROSE = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "ensurepip",
}
HELD_OUT_SHARE = 0.3  # of the modules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Docstrings:
    """A language data set of about 1.5 MB: every module is a document, one line per docstring.

    folder: where the Python files are (None: the standard library of this interpreter). validation_fraction, test_fraction: of
    the modules. Deviations: modules that repeat each other's docstrings (`_pyio` and `io`) may lie in two splits.
    """

    pipeline: ClassVar[type] = TextPipeline

    folder: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        if min(self.validation_fraction, self.test_fraction) <= 0 or self.validation_fraction + self.test_fraction >= 1:
            raise SpecError(f"{self}: fractions must be positive, and leave modules for training.")

    def open(self) -> OpenedText:
        """Raises SpecError when there are no three modules with docstrings."""
        folder = standard_library() if self.folder is None else Path(self.folder).expanduser()
        if not folder.is_dir():
            raise SpecError(
                f"data.folder={self.folder!r} is no folder; None takes the standard library of this Python."
            )
        by_module = _by_module(folder)
        names = sorted(by_module)
        if len(names) < 3:
            raise SpecError(f"{folder} holds {len(names)} modules with docstrings; three splits need three of them.")
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        splits = divided(names, hash_order(names, salt="language"), fractions)
        texts = {split: {name: _document(by_module[name]) for name in chosen} for split, chosen in splits.items()}
        origin = f"Python {platform.python_version()}" if self.folder is None else "files"
        return OpenedText(splits=texts, origin=origin)


def standard_library() -> Path:
    """The folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def _document(texts: Sequence[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def passages(
    split: Literal["calibration", "held_out"], count: int, *, words: int, seed: int = 0, folder: Path | None = None
) -> list[str]:
    """`count` passages of at least `words` words each, drawn without replacement from the modules of a split.

    folder: where the Python files are (None: the standard library of this interpreter).
    Raises SpecError when there are fewer passages than that.
    """
    by_module = _by_module(standard_library() if folder is None else folder)
    names = [sorted(by_module)[i] for i in hash_order(sorted(by_module), salt="split")]
    border = round(HELD_OUT_SHARE * len(names))
    own = names[:border] if split == "held_out" else names[border:]
    every = [text for name in sorted(own) for text in _joined(by_module[name], words)]
    if len(every) < count:
        raise SpecError(
            f"{split}: {len(every)} passages of {words} words are in the docstrings of {len(own)} modules, and {count} are "
            "asked for; take fewer or shorter ones, or a Python that has its library's sources."
        )
    chosen = np.random.default_rng(seed).choice(len(every), count, replace=False)
    return [every[i] for i in chosen]


def digest(texts: Sequence[str]) -> str:
    """The first 16 digits of the sha256 of the texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@functools.cache  # thousands of files
def _by_module(folder: Path) -> dict[str, list[str]]:
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        if not NO_PROSE & set(parts) and (texts := list(_docstrings(path))):
            found["/".join(parts)] = texts
    return found


def _docstrings(path: Path) -> Iterator[str]:
    """Prose of a file's docstrings, the outer first: without examples of code, white space as single blanks."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return  # such as the files that show what the parser must refuse
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (ast.get_docstring(node) or "").splitlines()
            text = " ".join(line for line in lines if not re.match(r"\s*(>>>|\.\.\.|[-=~+|]{3,})", line))
            if text := " ".join(text.split()):
                yield text


def _joined(texts: Sequence[str], words: int) -> Iterator[str]:
    """Neighbouring texts in one until there are `words` words; what is left at the end is dropped."""
    passage = ""
    for text in texts:
        passage = f"{passage} {text}".strip()
        if len(passage.split()) >= words:
            yield passage
            passage = ""


EXAMPLES = (Docstrings(),)
