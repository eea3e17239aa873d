"""Runs in every state are found and named; a broken one does not take the others with it."""

import fcntl
import json
import subprocess
import sys

import pytest

from moejax.evals.run_folders import DIED, FINISHED, RUNNING, STOPPED, collect_runs, is_locked, starts, status
from tests.evals.conftest import write_run

LOCK = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); input()"


def unfinished(folder, *, step, steps, checkpoint=None, **train):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": "vmoe", "seed": 0, "train": {"steps": steps} | train}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": step, "time": 1.0, "train/loss": 2.0}) + "\n")
    if checkpoint is not None:
        (folder / "checkpoints" / str(checkpoint)).mkdir(parents=True)
        (folder / "checkpoints" / "30.orbax-checkpoint-tmp").mkdir()
    return folder


def only(folder):
    (run,) = collect_runs([folder])[0]
    return run


def test_broken_folders_are_named_and_the_others_kept(tmp_path):
    write_run(tmp_path / "all" / "good", "dense", 0)
    wrong = {
        "json": ("{", "", "config.json is no JSON"),
        "list": ("[1]", '{"step": 1}', "is no config"),
        "empty": ("{}", "", "has no row"),
        "rows": ("{}", '{"loss": 1}\n', "no whole number 'step'"),
        "shape": ('{"train": 3}', '{"step": 1}', "not as training leaves it"),
    }
    for name, (config, rows, _) in wrong.items():
        (tmp_path / "all" / name).mkdir()
        (tmp_path / "all" / name / "config.json").write_text(config)
        (tmp_path / "all" / name / "metrics.jsonl").write_text(rows)
    (tmp_path / "all" / "no_config").mkdir()
    (tmp_path / "all" / "no_config" / "metrics.jsonl").write_text('{"step": 1}')
    begun = tmp_path / "all" / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    (begun / "config.json").write_text("{}")
    foreign = tmp_path / "all" / "a_downloaded_model"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")  # no run: nothing of training beside it
    runs, broken = collect_runs([tmp_path / "all", tmp_path / "all" / "good", tmp_path / "none", foreign])
    assert [run.folder.name for run in runs] == ["good"]  # once, though it was given twice
    reasons = {one.folder.name: one.reason for one in broken}
    for name, (_, _, reason) in wrong.items():
        if name != "shape":
            assert reason in reasons[name]
    assert "config.json does not exist" in reasons["no_config"] and "before its first report" in reasons["begun"]
    assert reasons["none"] == "does not exist" and "holds no run" in reasons["a_downloaded_model"]


def test_states(tmp_path):
    assert status(only(write_run(tmp_path / "a", "dense", 0))).state == FINISHED
    stopped = status(only(unfinished(tmp_path / "b", step=20, steps=60, checkpoint=24)))
    assert (stopped.state, stopped.step, stopped.steps) == (
        STOPPED,
        20,
        60,
    ) and stopped.text == "stopped at step 20 of 60, saved"
    died = status(only(unfinished(tmp_path / "c", step=20, steps=60, checkpoint=10)))
    assert died.state == DIED and died.text == "killed or crashed after step 20 of 60; last checkpoint at step 10"
    assert status(only(unfinished(tmp_path / "d", step=20, steps=60))).text.endswith("; no checkpoint")
    # All steps done: the test is still to come, unless the run has none.
    assert status(only(unfinished(tmp_path / "e", step=60, steps=60, checkpoint=60))).state == STOPPED
    assert status(only(unfinished(tmp_path / "f", step=60, steps=60, test_split=None))).state == FINISHED


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the lock cannot be asked for")
def test_a_run_that_holds_its_lock_is_running(tmp_path):
    folder = unfinished(tmp_path / "run", step=20, steps=60)
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", LOCK, str(folder / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "held\n"
    assert status(only(folder)).state == RUNNING
    with (folder / "lock").open("r+") as file, pytest.raises(BlockingIOError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # asking has not taken it away
    child.communicate("\n")
    assert not is_locked(folder / "lock") and status(only(folder)).state == DIED


def test_starts_may_be_missing_or_of_another_shape(tmp_path):
    folder = write_run(tmp_path / "run", "dense", 0)
    assert starts(only(folder)) == []
    for text, expected in (
        ('{"starts": [{"command": "a"}, 3, {"command": "b"}]}', [{"command": "a"}, {"command": "b"}]),
        ('{"command": "a"}', [{"command": "a"}]),
        ("{", []),
        ("3", []),
        ('{"starts": 3}', []),
    ):
        (folder / "environment.json").write_text(text)
        assert starts(only(folder)) == expected
