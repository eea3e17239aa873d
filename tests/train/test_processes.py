"""Several local processes train what one trains; the rest end when one is lost."""

import json
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.train.several_processes import end, largest_difference, leaves_of, log_of, long_run, start, wait_for_step


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [("expert=2",), ("expert=2", "model=2")])
def test_processes_train_to_the_parameters_of_one(tmp_path, mesh):
    count = 2 ** len(mesh)
    flags = [f"--config.train.mesh.{axis}" for axis in ("data=1", *mesh)]
    flags += ["--config.train.steps=4", "--config.model.moe.group_size=16"]
    one = start(tmp_path / "one", 1, *flags, devices=count)
    several = start(tmp_path / "several", count, *flags)
    assert end(one) == [0], log_of(tmp_path / "one", 0)
    assert end(several) == [0] * count, log_of(tmp_path / "several", 0)
    assert largest_difference(leaves_of(tmp_path / "several"), leaves_of(tmp_path / "one")) < 1e-5
    rows = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "several")]
    for alone, shared in zip(*(map(json.loads, lines) for lines in rows), strict=True):
        assert alone.keys() == shared.keys()
        for name in ("train/loss", "valid/accuracy", "test/accuracy"):
            if name in alone:
                assert shared[name] == pytest.approx(alone[name], rel=1e-5)
    assert "expert" in log_of(tmp_path / "several", 0) and "test/" not in log_of(tmp_path / "several", 1)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_the_run_goes_on(tmp_path):
    script = pathlib.Path(__file__).with_name("several_processes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "1"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for _, code, seconds, said_why, resumed in map(json.loads, done.stdout.splitlines()):
        assert code != 0 and seconds < 60 and said_why and resumed, done.stdout


@pytest.mark.slow
def test_sigterm_to_one_stops_both_after_the_same_step(tmp_path):
    processes = long_run(tmp_path / "run", 2)
    wait_for_step(tmp_path / "run", 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert end(processes, 120) == [128 + signal.SIGTERM] * 2, log_of(tmp_path / "run", 0)
    assert "stopped by signal 15 at step" in log_of(tmp_path / "run", 0)
    assert end(long_run(tmp_path / "run", 2)) == [0, 0]
    assert "resuming" in log_of(tmp_path / "run", 0)


@pytest.mark.slow
def test_a_coordinator_that_nobody_answers_at_is_named(tmp_path):
    alone = start(tmp_path / "run", 2, "--config.train.processes.patience=3")
    alone[0].kill()
    assert end(alone, 120)[1] == 1
    said = log_of(tmp_path / "run", 1)
    assert "process 1 of 2 did not find the others at 127.0.0.1:" in said and "within 3 s" in said
