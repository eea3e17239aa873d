"""SIGKILL at random moments, again and again until a run is through; its parameters must be those of one left alone."""

import dataclasses
import json
import pathlib
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import logging

from moejax.train.checkpoints import Checkpoints
from moejax.train.faults.forks import Fork, call
from moejax.train.records import read_rows
from moejax.train.seals import broken

Command = Callable[[pathlib.Path], Sequence[str]]
TIMED = ("time", "train/images_per_second")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill:
    """One SIGKILL. run: number of the folder. delay: processor seconds from its start. cpu_seconds: taken in all.

    moment: what was going on: 'starting' (the process had not yet found its state), 'training', or 'saving' (a checkpoint was being
    written: its temporary folder is there). newest: the last complete checkpoint, 0 for none. lost: steps with a row after it.
    half_rows: whether the kill cut a row of metrics.jsonl. damaged: complete checkpoints with a file that is not the one that was
    written. resumed_from: the step from which the next process that came as far went on.
    """

    run: int
    delay: float
    moment: str
    newest: int
    lost: int
    half_rows: bool
    damaged: int
    cpu_seconds: float
    resumed_from: int | None = None

    @property
    def resumed(self) -> bool:
        """Whether the run went on from the last complete checkpoint."""
        return self.resumed_from == self.newest


def steps_of(workdir: pathlib.Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def launch(command: Command, workdir: pathlib.Path) -> Fork:
    """A process of the run in `workdir`; what it prints lies beside it."""
    beside = workdir.parent
    return Fork(
        command(workdir), folder=beside, output=beside / f"{workdir.name}.out", errors=beside / f"{workdir.name}.err"
    )


def undisturbed(command: Command, workdir: pathlib.Path) -> tuple[float, float]:
    """Runs to the end; seconds of the clock, and of the processor. Raises RuntimeError where it fails."""
    process = launch(command, workdir)
    process.ended(3600)
    whole = time.monotonic() - process.begin
    if process.code != 0:
        raise RuntimeError(f"the undisturbed run ended with {process.code}:\n{process.errors.read_text()[-3000:]}")
    return whole, process.cpu_seconds


def kills(
    command: Command, folder: pathlib.Path, *, count: int, steps: int, cpu_seconds: float, seed: int, first: int = 0
) -> Iterator[Kill | pathlib.Path]:
    """Yields every kill, once a later process has gone on, and every folder whose run has come to its end.

    cpu_seconds: of an undisturbed run. The delay is uniform over what the process still has to compute, its start included (taken
    as 70 % of a run); when it ends before, the run is through and a new folder begins. first: number of the first folder. Raises RuntimeError when a run fails of itself.
    """
    draw, done, run = random.Random(seed), 0, first
    waiting: list[Kill] = []  # for a process that goes on
    while done < count or waiting:
        workdir = folder / f"killed_{run:03d}"
        newest, begun = max(steps_of(workdir), default=0), _starts(workdir)
        left = cpu_seconds * (0.7 + 0.3 * (1 - newest / steps))
        delay = draw.uniform(0, left) if done < count else 900.0
        process = launch(command, workdir)
        ended = process.computed(delay)
        if not ended:
            process.kill()
        if ended and process.code != 0:
            raise RuntimeError(f"{workdir} ended with {process.code}:\n{process.errors.read_text()[-3000:]}")
        said = process.output.read_text()
        found_state = ended or _starts(workdir) > begun
        if found_state:
            found = re.search(r"from step (\d+)", said)
            step = int(found[1]) if found else newest if "nothing to do" in said else 0
            yield from (dataclasses.replace(kill, resumed_from=step) for kill in waiting)
            waiting = []
        if ended:
            yield workdir
            run += 1
        else:
            done += 1
            waiting.append(_after(workdir, run, delay, process.cpu_seconds, found_state))


def _starts(workdir: pathlib.Path) -> int:
    """How many processes have found their state there."""
    path = workdir / "environment.json"
    return len(json.loads(path.read_text())["starts"]) if path.exists() else 0


def _after(workdir: pathlib.Path, run: int, delay: float, cpu_seconds: float, found_state: bool) -> Kill:
    """What a killed process left. Temporary folders of earlier ones are gone once it has found its state."""
    folder, metrics = workdir / "checkpoints", workdir / "metrics.jsonl"
    steps, text = steps_of(workdir), metrics.read_text() if metrics.exists() else ""
    newest = max(steps, default=0)
    saving = found_state and any("orbax-checkpoint-tmp" in path.name for path in folder.iterdir())
    return Kill(
        run=run,
        delay=round(delay, 3),
        moment="saving" if saving else "training" if found_state else "starting",
        newest=newest,
        lost=max((row["step"] for row in read_rows(metrics)), default=0) - newest if found_state else 0,
        half_rows=bool(text) and not text.endswith("\n"),
        damaged=sum(broken(folder / str(step)) is not None for step in steps),
        cpu_seconds=round(cpu_seconds, 2),
    )


def difference(one: str, other: str) -> str | None:
    """The first thing in which two finished runs differ, bit by bit: a leaf of the last checkpoint, or a row. Starts jax."""
    logging.set_verbosity(logging.WARNING)
    leaves = []
    for workdir in (one, other):
        with Checkpoints(pathlib.Path(workdir) / "checkpoints", read_only=True) as checkpoints:
            restored = checkpoints.restore()
        if restored is None:
            return f"{workdir} has no checkpoint"
        leaves.append({name: (leaf.shape, str(leaf.dtype), leaf.tobytes()) for name, leaf in restored.leaves.items()})
    if leaves[0].keys() != leaves[1].keys():
        return "the names of leaves"
    if wrong := [name for name in leaves[0] if leaves[0][name] != leaves[1][name]]:
        return f"leaf {wrong[0]}"
    rows = [
        [{n: v for n, v in row.items() if n not in TIMED} for row in read_rows(pathlib.Path(workdir) / "metrics.jsonl")]
        for workdir in (one, other)
    ]
    return None if rows[0] == rows[1] else "the rows of metrics.jsonl"


def same(one: pathlib.Path, other: pathlib.Path) -> str | None:
    """`difference`, in a fork."""
    return call(difference, str(one), str(other))


def summary(found: Sequence[Kill], finished: int, differing: Sequence[str]) -> dict[str, Any]:
    """The numbers of the report."""
    moments = {moment: sum(kill.moment == moment for kill in found) for moment in ("starting", "training", "saving")}
    return {
        "kills": len(found),
        "moments": moments,
        "resumed": sum(kill.resumed for kill in found),
        "half_rows": sum(kill.half_rows for kill in found),
        "most_steps_lost": max((kill.lost for kill in found), default=0),
        "damaged_checkpoints": sum(kill.damaged for kill in found),
        "runs_finished": finished,
        "runs_that_differ": list(differing),
        "mean_cpu_seconds": round(sum(kill.cpu_seconds for kill in found) / max(len(found), 1), 2),
    }
