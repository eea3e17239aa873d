"""The user's own text: the .txt files of a folder, each a document, read as bytes.

Source: ours.
"""

import dataclasses
from pathlib import Path
from typing import ClassVar

from moejax.core.errors import SpecError
from moejax.data.packaged_files import hash_order
from moejax.data.prepare.archives import inside
from moejax.data.text_dataset import OpenedText, TextPipeline, divided

SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles:
    """folder: holds .txt files, at any depth, or `train/`, `validation/` and `test/` that do.

    validation_fraction, test_fraction: of the files, by a hash of their paths, where the folder has none of its own for that
    split; 0 leaves the split out. A split is of whole files: what is held out has no neighbour in training.
    """

    pipeline: ClassVar[type] = TextPipeline

    folder: str
    validation_fraction: float = 0.1
    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        if min(self.validation_fraction, self.test_fraction) < 0 or self.validation_fraction + self.test_fraction >= 1:
            raise SpecError(f"{self}: fractions must not be negative, and leave files for training.")

    def open(self) -> OpenedText:
        """Raises SpecError for a folder that is not there, too few files, and links that leave the folder."""
        root = Path(self.folder).expanduser()
        if not root.is_dir():
            raise SpecError(f"data.folder={self.folder!r} is no folder; give one that holds .txt files.")
        own = {s: root / n for s, names in SPLIT_FOLDERS.items() for n in names if (root / n).is_dir()}
        if "train" not in own:
            own = {}
        fractions = {"validation": self.validation_fraction, "test": self.test_fraction}
        wanted = {split: share for split, share in fractions.items() if split not in own and share > 0}
        names = _names(own.get("train", root))
        if len(names) <= len(wanted):
            raise SpecError(
                f"{own.get('train', root)} holds {len(names)} .txt files; training and {', '.join(wanted) or 'nothing else'} need "
                f"{len(wanted) + 1}, since splits are of whole files. Cut a long file in several, or set the fractions to 0."
            )
        splits = divided(names, hash_order(names, salt="text_files"), wanted)
        found = {split: _read(own.get("train", root), chosen) for split, chosen in splits.items()}
        found |= {split: _read(folder, _names(folder)) for split, folder in own.items() if split != "train"}
        return OpenedText(splits=found, origin="files")


def _names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.txt") if p.is_file())


def _read(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {name: inside(folder, name, what="data.folder").read_bytes() for name in names}


EXAMPLES = (TextFiles(folder="texts"),)
