"""Checkpoints damaged on the disk: every damage must be seen, and the run must go on from the newest whole one."""

import dataclasses
import pathlib
import random
import shutil
from collections.abc import Sequence
from typing import Any

from absl import logging

from moejax.train.checkpoints import CheckpointError, Checkpoints

KINDS = ("bit flip", "truncation", "missing file", "swapped files")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damage:
    """kind: of KINDS. file: in the newest checkpoint. detail: which bit, which length, which other file.

    detected: that step was not loaded. fell_back_to: the step that was; intact: with the very arrays that were saved.
    """

    kind: str
    file: str
    detail: str
    detected: bool
    fell_back_to: int | None
    intact: bool


def damages(source: str, scratch: str, count: int, seed: int) -> list[dict[str, Any]]:
    """Damages copies of the checkpoints in `source` in `count` ways and opens each; starts jax.

    source: a folder of at least three checkpoints. A third of the damages are bit flips anywhere, the others cut a file at a random
    length, remove one, or exchange one with its like in the checkpoint before (then both are damaged and the third must serve).
    """
    logging.set_verbosity(logging.ERROR)
    draw = random.Random(seed)
    origin = pathlib.Path(source)
    steps = sorted((int(path.name) for path in origin.iterdir() if path.name.isdigit()), reverse=True)
    with Checkpoints(origin, read_only=True) as checkpoints:
        wanted = {step: _bytes(checkpoints.restore(which=step)) for step in steps[1:3]}
    found = []
    for number in range(count):
        kind = KINDS[(number * len(KINDS)) // count]
        copy = pathlib.Path(scratch) / f"damaged_{number:03d}" / "checkpoints"
        shutil.copytree(origin, copy)
        file, detail = _damage(kind, copy, steps, draw)
        whole = steps[2] if kind == "swapped files" else steps[1]
        try:
            with Checkpoints(copy, keep_last=len(steps)) as checkpoints:
                restored = checkpoints.restore()
        except CheckpointError:
            restored = None
        step = None if restored is None else restored.step
        intact = step == whole and _bytes(restored) == wanted[whole]
        damage = Damage(
            kind=kind, file=file, detail=detail, detected=step not in steps[: steps.index(whole)], fell_back_to=step,
            intact=intact,
        )  # fmt: skip
        found.append(dataclasses.asdict(damage))
        shutil.rmtree(copy.parent)
    return found


def _bytes(restored: Any) -> dict[str, bytes]:
    return {name: leaf.tobytes() for name, leaf in restored.leaves.items()}


def _damage(kind: str, copy: pathlib.Path, steps: Sequence[int], draw: random.Random) -> tuple[str, str]:
    """Does it; (file, detail)."""
    newest = copy / str(steps[0])
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
    path = draw.choice(files)
    name, size = path.relative_to(newest).as_posix(), path.stat().st_size
    if kind == "missing file":
        path.unlink()
        return name, f"{size} bytes"
    if kind == "truncation":
        length = draw.randrange(size)
        path.write_bytes(path.read_bytes()[:length])
        return name, f"{size} to {length} bytes"
    if kind == "bit flip":
        data, bit = bytearray(path.read_bytes()), draw.randrange(8 * size)
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(bytes(data))
        return name, f"bit {bit} of {8 * size}"
    return _swap(newest, copy / str(steps[1]), draw)


def _swap(one: pathlib.Path, other: pathlib.Path, draw: random.Random) -> tuple[str, str]:
    """Exchanges two files in the same place of both that differ; names of arrays' files differ, so they go by their order."""
    pairs = []
    for folder in sorted({path.parent.relative_to(one) for path in one.rglob("*") if path.is_file()}):
        mine, theirs = (sorted(p for p in (root / folder).iterdir() if p.is_file()) for root in (one, other))
        pairs += [(a, b) for a, b in zip(mine, theirs, strict=False) if a.read_bytes() != b.read_bytes()]
    a, b = draw.choice(pairs)
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    return a.relative_to(one).as_posix(), f"with {b.relative_to(other).as_posix()} of step {other.name}"


def damaged_copy(workdir: pathlib.Path, target: pathlib.Path, kind: str, seed: int) -> pathlib.Path:
    """A copy of a finished run whose newest checkpoint is damaged: the same command has steps to do again. Returns `target`."""
    shutil.copytree(workdir, target)
    folder = target / "checkpoints"
    steps = sorted((int(path.name) for path in folder.iterdir() if path.name.isdigit()), reverse=True)
    _damage(kind, folder, steps, random.Random(seed))
    return target
