"""Several local processes train what one trains; the rest end when one is lost."""

import json
import signal

import pytest

from tests.train.several_processes import (
    end,
    killed,
    largest_difference,
    leaves_of,
    log_of,
    long_run,
    start,
    wait_for_step,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all, as the runs in it share their compiled programs."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def by_two(folder):
    """The run of two processes with one device each."""
    assert end(long_run(folder / "by_2", 2)) == [0, 0], log_of(folder / "by_2", 0)
    return folder / "by_2"


def compare(alone, several):
    assert largest_difference(leaves_of(several), leaves_of(alone)) < 1e-5
    rows = [(path / "metrics.jsonl").read_text().splitlines() for path in (alone, several)]
    for one, shared in zip(*(map(json.loads, lines) for lines in rows), strict=True):
        assert one.keys() == shared.keys()
        for name in {"train/loss", "valid/accuracy", "test/accuracy"} & one.keys():
            assert shared[name] == pytest.approx(one[name], rel=1e-5)
    assert "expert" in log_of(several, 0) and "test/" not in log_of(several, 1)


def test_two_processes_train_to_the_parameters_of_one(folder, by_two):
    """One has as many devices as all of several: over other meshes Adam makes much of rounding where gradients vanish."""
    assert end(long_run(folder / "with_2", 1, devices=2)) == [0], log_of(folder / "with_2", 0)
    compare(folder / "with_2", by_two)


def test_four_processes_train_to_the_parameters_of_one(folder):
    """One that sums over its four devices in the order of four processes: a rounding would send a token to another expert."""
    assert end(long_run(folder / "with_4", 1, devices=4, joined=True)) == [0], log_of(folder / "with_4", 0)
    assert end(long_run(folder / "by_4", 4)) == [0] * 4, log_of(folder / "by_4", 0)
    compare(folder / "with_4", folder / "by_4")
    assert largest_difference(leaves_of(folder / "by_4"), leaves_of(folder / "with_4")) == 0.0


def test_a_killed_process_ends_the_other_and_the_run_goes_on(folder, by_two):
    ((_, code, seconds, said_why, resumed),) = killed(folder, 1, leaves_of(by_two))
    assert code != 0 and seconds < 60 and said_why and resumed


def test_sigterm_to_one_stops_both_after_the_same_step(folder):
    run = folder / "stopped"
    processes = long_run(run, 2)
    wait_for_step(run, 3, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert end(processes, 120) == [0, 0], log_of(run, 0)
    (step,) = [
        int(line.split()[6].rstrip(";")) for line in log_of(run, 0).splitlines() if "stopped by signal 15" in line
    ]
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()] == [str(step)]


def test_a_coordinator_that_nobody_answers_at_is_named(folder):
    run = folder / "lonely"
    processes = start(run, 2, "--config.train.processes.patience=3")
    processes[0].kill()
    assert end(processes, 120)[1] == 1
    said = log_of(run, 1)
    assert "process 1 of 2 did not find the others at 127.0.0.1:" in said and "within 3 s" in said
