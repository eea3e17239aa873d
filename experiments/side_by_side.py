"""Runs commands side by side, one core each, with one line of progress for all of them."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass
class Job:
    """command: a script of this folder and its arguments. folder: where it writes metrics.jsonl. code: once it has ended."""

    name: str
    command: Sequence[str]
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.folder.with_suffix(".log")

    def start(self, core: int | None) -> None:
        """Starts the command, on one core where a core is given and the system lets us choose."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        stopped = ["--preemption_exit_code=143"] * (Path(self.command[0]).name == "train.py")  # saved is not done
        with self.log.open("ab") as log, pinned(core):  # a child starts where its parent runs
            self.process = subprocess.Popen(
                [sys.executable, *self.command, *stopped],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us alone, and we tell the runs to save
            )

    def progress(self) -> str:
        """Step and accuracy of the newest row."""
        row = newest_row(self.folder / "metrics.jsonl")
        if not row:
            return f"{self.name}: starting"
        accuracy = f", {row['train/accuracy']:.0%}" if "train/accuracy" in row else ""
        return f"{self.name}: step {row['step']}{accuracy}"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keeps this process, and what it starts, on one core; does nothing for None or where the system has no such call."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def newest_row(path: Path) -> dict[str, Any]:
    """The last whole row of a metrics.jsonl; empty when there is none."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    for line in reversed(lines[-2:]):
        try:
            return json.loads(line)
        except json.JSONDecodeError:  # being written
            continue
    return {}


def run_side_by_side(jobs: Sequence[Job], *, slots: int, steps: int | None, keep_going: bool = False) -> Job | None:
    """Runs all jobs, `slots` at a time. Returns the first that failed, after the others have saved, or with `keep_going` ended.

    slots: at most the number of cores; with more than one, each job gets a core. steps: of every job, for the line of progress;
    None where they differ. Ctrl-C tells the running jobs to save and stop; those that had not begun keep the code None.
    """
    waiting, free = list(jobs), list(range(slots))
    running: dict[int, Job] = {}
    begin, shown = time.monotonic(), 0.0
    failed = None
    try:
        while (waiting and (keep_going or failed is None)) or running:
            while waiting and free and (keep_going or failed is None):
                job, core = waiting.pop(0), free.pop(0)
                job.start(core if slots > 1 else None)
                running[core] = job
            time.sleep(0.2)
            for core, job in list(running.items()):
                assert job.process is not None
                job.code = job.process.poll()
                if job.code is None:
                    continue
                free.append(core)
                del running[core]
                print(f"\r\033[K{job.name}: {'done' if job.code == 0 else 'failed'}, {closing_line(job)}", flush=True)
                if job.code and failed is None:
                    failed = job
                    if not keep_going:
                        stop(running.values())
            if time.monotonic() - shown > 2 and running:
                shown = time.monotonic()
                states = " | ".join(job.progress() for job in running.values())
                print(f"\r\033[K[{shown - begin:4.0f} s] {states}{f' of {steps}' if steps else ''}", end="", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted; waiting for the runs to save their state ...", flush=True)
        stop(running.values())
        for job in running.values():
            assert job.process is not None
            job.code = job.process.wait()
            failed = failed or job
    return failed


def run_or_exit(jobs: Sequence[Job], *, slots: int, steps: int) -> None:
    """`run_side_by_side`; ends the program with the exit code of the run that failed, after the end of its output."""
    failed = run_side_by_side(jobs, slots=slots, steps=steps) if jobs else None
    if failed:
        print(
            f"stopped at {failed.name} (exit code {failed.code}); the same command goes on from here.", file=sys.stderr
        )
        print(failed.log.read_text()[-2000:], file=sys.stderr)
        sys.exit(failed.code if failed.code and 0 < failed.code < 256 else 1)


def stop(jobs: Iterable[Job]) -> None:
    """Tells running jobs to save and end."""
    for job in jobs:
        if job.process is not None:
            job.process.send_signal(signal.SIGTERM)


def closing_line(job: Job) -> str:
    """The test accuracy of a finished run, or where its output is."""
    row = newest_row(job.folder / "metrics.jsonl")
    if "test/accuracy" in row:
        return f"test accuracy {row['test/accuracy']:.1%} after {row['time']:.0f} s"
    return f"see {job.log}"
