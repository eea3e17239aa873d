"""Which runs lie below some folders, in what state each is, and which folders could not be read. Source: ours."""

import contextlib
import dataclasses
import json
import os
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moejax.core.errors import SpecError
from moejax.evals.runs import Run, read_run

LEFT_BY_TRAINING = ("checkpoints", "environment.json", "lock")  # beside a config.json: a run before its first row
FINISHED, RUNNING, STOPPED, DIED = "finished", "running", "stopped", "killed or crashed"


@dataclasses.dataclass(frozen=True)
class Broken:
    """A folder that was to be compared and cannot be, with the reason."""

    folder: Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Status:
    """state: one of the four above. step of steps (None when the config does not say): rows reach so far. text: a sentence."""

    state: str
    step: int
    steps: int | None
    text: str


def collect_runs(folders: Sequence[str | Path]) -> tuple[list[Run], list[Broken]]:
    """The runs that are these folders or lie below them, each once, in the order in which they are found.

    A folder that does not exist, holds no run, or holds one that cannot be read becomes a Broken; the others are not lost.
    """
    runs: list[Run] = []
    broken: list[Broken] = []
    seen: set[Path] = set()
    for given in map(Path, folders):
        if not given.is_dir():
            broken.append(Broken(given, "is no folder" if given.exists() else "does not exist"))
            continue
        found = sorted(_run_folders(given))
        if not found:
            broken.append(Broken(given, "holds no run: no folder in it has both config.json and metrics.jsonl"))
        for folder in found:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                run = read_run(folder)
                status(run)
                runs.append(run)
            except SpecError as error:
                broken.append(Broken(folder, str(error)))
            except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:  # JSON, but of another shape
                broken.append(Broken(folder, f"is not as training leaves it ({type(error).__name__}: {error})"))
    return runs, broken


def status(run: Run) -> Status:
    """From the rows, the checkpoints and, on Linux, the lock that a run holds while it trains."""
    steps = _steps(run.config)
    step = run.record.steps
    whole = steps is not None and step >= steps
    tested = run.config.get("train", {}).get("test_split", "test") is not None
    of = f"step {step:,}" + ("" if steps is None else f" of {steps:,}")
    if run.finished or (whole and not tested):
        return Status(FINISHED, step, steps, "finished")
    if run.folder is not None and is_locked(run.folder / "lock"):
        return Status(RUNNING, step, steps, f"running, {of}")
    saved = _last_checkpoint(run.folder)
    if saved is not None and saved >= step:
        return Status(STOPPED, step, steps, f"stopped at {of}, saved")
    rest = "no checkpoint" if saved is None else f"last checkpoint at step {saved:,}"
    return Status(DIED, step, steps, f"killed or crashed after {of}; {rest}")


def starts(run: Run) -> list[Mapping[str, Any]]:
    """What environment.json says of every start of a run: command, folder, date, versions, device, git; [] without the file."""
    if run.folder is None:
        return []
    try:
        found = json.loads((run.folder / "environment.json").read_text())
    except (OSError, ValueError):
        return []
    entries = found.get("starts", [found]) if isinstance(found, Mapping) else found
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []


def is_locked(path: Path) -> bool:
    """Whether another process holds the record lock of a file: asked for, not taken. False where the system cannot be asked."""
    if sys.platform != "linux" or not path.exists():
        return False
    import fcntl

    # struct flock of fcntl(2): type, whence, start, length, pid.
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with contextlib.suppress(OSError), path.open() as file:
        return struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK
    return False


def _run_folders(root: Path) -> Iterator[Path]:
    for place, below, files in os.walk(root):
        names = {*below, *files}
        begun = "config.json" in names and names & set(LEFT_BY_TRAINING)
        if "metrics.jsonl" in names or begun:
            yield Path(place)
        below[:] = [name for name in below if name not in ("checkpoints", "tensorboard", "wandb")]


def _steps(config: Mapping[str, Any]) -> int | None:
    steps = config.get("train", {}).get("steps")
    return int(steps) if isinstance(steps, int) else None


def _last_checkpoint(folder: Path | None) -> int | None:
    if folder is None or not (folder / "checkpoints").is_dir():
        return None
    return max((int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit()), default=None)
