"""Disks that are full, read-only or no folder at all: one line, nothing lost, and the run goes on when there is room."""

import os
import subprocess

import numpy as np
import pytest

from moejax.train.checkpoints import CheckpointError, Checkpoints
from moejax.train.disk import DiskError, write_whole
from moejax.train.loop import run
from moejax.train.optimizers import Optimizer
from moejax.train.records import Records, read_rows
from moejax.train.spec import Train

SPEC = {"steps": 12, "log_every": 1, "eval_every": 0, "checkpoint_every": 2, "progress": False}


def train(workdir, task, data):
    optimizer = Optimizer(learning_rate=0.05, schedule="constant")
    return run(task, data, optimizer, Train(**SPEC), workdir=workdir, config={"seed": 5}, seed=5)


def result(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        leaves = checkpoints.restore().leaves
    rows = read_rows(workdir / "metrics.jsonl")
    return {n: leaf.tobytes() for n, leaf in leaves.items()}, [(row["step"], row.get("train/loss")) for row in rows]


@pytest.fixture
def disk(tmp_path):
    """A file system of 1 MiB of memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(line, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


class Filling:
    """In front of batch number n all that is left of the disk is taken, but for `spare` bytes."""

    def __init__(self, folder, number, spare):
        self.ballast, self.number, self.spare = folder / "ballast", number, spare

    def __call__(self, number):
        if number != self.number:
            return
        there = os.statvfs(self.ballast.parent)
        left = max(there.f_bavail * there.f_frsize - self.spare, 0)
        self.ballast.write_bytes(b"\0" * left)


# Nothing: the next row of metrics or the next event fails. A little: rows fit, and a checkpoint does not.
@pytest.mark.parametrize("spare", [0, 16 * 1024])
def test_a_full_disk(tmp_path, disk, linear_task, memory_data, spare):
    folder = disk
    train(tmp_path / "whole", linear_task(noise=0.1), memory_data())
    fill = Filling(folder, 8, spare)
    with pytest.raises((CheckpointError, DiskError)) as error:
        train(folder / "run", linear_task(noise=0.1), memory_data(fill))
    message = str(error.value)
    assert "could not be written" in message or "cannot be written: No space left on device" in message
    assert "ake room and run the same command" in message and "\n" not in message
    with Checkpoints(folder / "run" / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.restore().step >= 2  # what was complete is whole
    fill.ballast.unlink()
    train(folder / "run", linear_task(noise=0.1), memory_data())
    assert result(folder / "run") == result(tmp_path / "whole")


def test_a_read_only_disk(tmp_path, disk, linear_task, memory_data, terminate_at):
    folder = disk
    train(tmp_path / "whole", linear_task(noise=0.1), memory_data())
    stopped = train(folder / "run", linear_task(noise=0.1), memory_data(terminate_at(6)))
    assert 0 < stopped.step < 12
    # Only between two runs: the system refuses to lock a file system on which files are open for writing.
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
    for name in ("run", "another"):
        with pytest.raises(DiskError) as error:
            train(folder / name, linear_task(noise=0.1), memory_data())
        assert "cannot be written: Read-only file system. Make the folder writable" in str(error.value)
    with Checkpoints(folder / "run" / "checkpoints", read_only=True) as checkpoints:  # evaluation still reads it
        assert checkpoints.restore().step == stopped.step
    subprocess.run(["mount", "-o", "remount,rw,bind", str(folder)], check=True)
    train(folder / "run", linear_task(noise=0.1), memory_data())
    assert result(folder / "run") == result(tmp_path / "whole")


def test_a_file_where_a_folder_is_wanted(tmp_path, linear_task, memory_data):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DiskError, match="cannot be written: .*Give a --workdir that is a folder"):
            train(workdir, linear_task(), memory_data())


def test_a_row_that_does_not_fit(tmp_path, monkeypatch):
    records = Records(tmp_path, step=0)
    records.write({"step": 1, "train/loss": 1.0})
    monkeypatch.setattr(records, "_file", open("/dev/full", "w"))  # noqa: SIM115
    with pytest.raises(DiskError, match="metrics.jsonl cannot be written: No space left on device. Make room"):
        records.write({"step": 2, "train/loss": 1.0})
    records.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1]


def test_a_file_is_old_or_new(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_whole(path, "old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("moejax.train.disk.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_events_are_read_by_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for step in (1, 3):  # a second process goes on from step 2: what the first wrote from there on no longer counts
        records = Records(tmp_path, step=step - 1)
        for number in (step, step + 1, step + 2):
            records.write({"step": number, "train/loss": number / 4, "skipped": "no number"})
        records.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    np.testing.assert_allclose([found[step] for step in (1, 2, 3, 4, 5)], [0.25, 0.5, 0.75, 1.0, 1.25])
