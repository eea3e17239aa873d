"""Pictures in folders: one subfolder per class, below `train/`, `validation/`, `test/`, or divided by fractions.

Source: ours (the layout that ImageNet made usual).
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from moejax.core.errors import SpecError
from moejax.data.dataset import Opened
from moejax.data.packaged_files import hash_order
from moejax.data.prepare.archives import extract, inside
from moejax.data.prepare.cache import cache_folder

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """folder: the root, or a zip or tar archive of it (unpacked into the cache).

    validation_fraction, test_fraction: parts taken from the training pictures, by a hash of their paths, where the
    root has no folder for that split.
    """

    folder: str
    validation_fraction: float = 0.1
    test_fraction: float = 0.1

    def __post_init__(self) -> None:
        if min(self.validation_fraction, self.test_fraction) < 0 or self.validation_fraction + self.test_fraction >= 1:
            raise SpecError(f"{self}: fractions must not be negative, and leave pictures for training.")

    def open(self) -> Opened:
        """Raises SpecError for a folder without class folders or pictures, and for paths that leave it."""
        root = _root(Path(self.folder).expanduser())
        found = {
            split: root / name for split, names in SPLIT_FOLDERS.items() for name in names if (root / name).is_dir()
        }
        train_root = found.get("train", root)
        classes = tuple(
            sorted(
                p.name for p in train_root.iterdir() if p.is_dir() and (found.get("train") or p not in found.values())
            )
        )
        files = {split: _list(folder, classes) for split, folder in (found | {"train": train_root}).items()}
        for split, fraction in (("test", self.test_fraction), ("validation", self.validation_fraction)):
            if split not in files:
                files["train"], files[split] = _divide(files["train"], fraction, train_root)
        for split, rows in files.items():
            if not rows:
                raise SpecError(
                    f"{root} holds no pictures for {split!r}: expected CLASS/picture.png (or {', '.join(SUFFIXES[1:])}) in "
                    f"{found.get(split, train_root)}, found {len(classes)} class folders. Raise the fraction if it is small."
                )
        return Opened(class_names=classes, splits={split: PictureFiles(rows) for split, rows in files.items()})


class PictureFiles:
    """Records of (path, label)."""

    def __init__(self, rows: Sequence[tuple[Path, int]]):
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        path, label = self._rows[index]
        try:
            with Image.open(path) as picture:
                return {"image": np.asarray(picture.convert("RGB")), "label": label}
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            size = path.stat().st_size if path.exists() else 0
            raise SpecError(f"{path} ({size} bytes) is no picture, or truncated ({error}). Remove it.") from error


def _root(folder: Path) -> Path:
    if folder.is_file():
        stat = folder.stat()
        digest = hashlib.sha256(f"{folder.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:16]
        unpacked = cache_folder("archives") / digest
        folder = unpacked if unpacked.is_dir() else extract(folder, unpacked)
    if not folder.is_dir():
        raise SpecError(f"data.folder={str(folder)!r} does not exist. Give a folder with one subfolder per class.")
    entries = list(folder.iterdir())
    return _root(entries[0]) if len(entries) == 1 and entries[0].is_dir() else folder


def _list(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    unknown = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in classes)
    if unknown and folder.name in {name for names in SPLIT_FOLDERS.values() for name in names}:
        raise SpecError(f"{folder} holds classes that training has not: {', '.join(unknown[:5])}.")
    return [
        (inside(folder, f"{name}/{path.relative_to(folder / name).as_posix()}", what="data.folder"), label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]


def _divide(rows: list[tuple[Path, int]], fraction: float, root: Path) -> tuple[list[Any], list[Any]]:
    names = [path.relative_to(root.resolve()).as_posix() for path, _ in rows]
    order = hash_order(names, salt="image_folder").tolist()
    taken = set(order[: round(fraction * len(rows))])
    return [r for i, r in enumerate(rows) if i not in taken], [r for i, r in enumerate(rows) if i in taken]


EXAMPLES = (ImageFolder(folder="pictures"),)
