"""The seal of a checkpoint: every file in it with its size and SHA-256, written before the checkpoint gets its name.

Fingerprints say that the arrays which were read are those that were saved; the seal says it of the files, those included that
only describe the arrays: a flipped bit, a cut, a missing file and one that belongs to another checkpoint are all seen before
anything is parsed. It also finds what a power failure left of files that were never brought to the disk. Source: ours.
"""

import asyncio
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from orbax.checkpoint.path import atomicity

SEAL = "files.json"
# Larger files hold arrays, which have fingerprints of their own: of these the size alone is sealed, as process 0 would have
# to read again what all processes wrote.
LARGEST_HASHED = 64 * 2**20


class SealedPath(atomicity.AtomicRenameTemporaryPath):
    """Orbax's temporary folder, sealed in the moment before it is renamed to the step's number.

    Deviations: no time of the commit is written into Orbax's own metadata, as it would come after the seal.
    """

    async def finalize(self) -> None:
        """Runs in process 0, after all processes have written."""
        store: Any = getattr(self, "_checkpoint_metadata_store", None)
        if store is not None:
            await asyncio.to_thread(store.wait_until_finished)
        temporary, final = (pathlib.Path(str(path)) for path in (self.get(), self.get_final()))
        if final.name.isdigit():  # Orbax finishes the parts of a checkpoint in the same way
            await asyncio.to_thread(seal, temporary, int(final.name))
        await asyncio.to_thread(temporary.rename, final)


def seal(folder: pathlib.Path, step: int) -> None:
    """Writes the seal of `folder`, the checkpoint of `step`."""
    files = {path.relative_to(folder).as_posix(): _mark(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    (folder / SEAL).write_text(json.dumps({"step": step, "files": files}))


def is_sealed(folder: pathlib.Path) -> bool:
    """Whether there is a seal. Checkpoints of versions before 0.2 have none."""
    return (folder / SEAL).exists()


def broken(folder: pathlib.Path, only: Sequence[str] | None = None) -> str | None:
    """What is wrong with a sealed checkpoint, the first of all; None when nothing is.

    only: look at these files and at the seal itself.
    """
    try:
        found = json.loads((folder / SEAL).read_text())
        step, files = found["step"], dict(found["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its seal {SEAL} cannot be read ({type(error).__name__})"
    if str(step) != folder.name:
        return f"its seal is that of step {step}"
    for name in files if only is None else only:
        try:
            mark = _mark(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if mark != files.get(name):
            return f"{name} is not the file that was written"
    return None


def _mark(path: pathlib.Path) -> list[Any]:
    size = path.stat().st_size
    if size > LARGEST_HASHED:
        return [size, None]
    with path.open("rb") as file:
        return [size, hashlib.file_digest(file, "sha256").hexdigest()]
