"""Rows on their way to Weights & Biases: its calls, recorded by a module of the same name; and its own library where it is there."""

import importlib.util
import json
import sys
import types

import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_spec
from moejax.train.loop import run
from moejax.train.optimizers import Optimizer
from moejax.train.records import Records
from moejax.train.spec import Train
from moejax.train.wandb_run import Wandb, WandbRun, check_installed

SPEC = Wandb(project="experts", tags=("tiny",))


class Fake(types.ModuleType):
    """What `wandb` is asked for; `broken` makes the next call fail as the library does."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = importlib.util.spec_from_loader("wandb", None)
        self.errors = types.SimpleNamespace(Error=type("Error", (Exception,), {}))
        self.inits, self.rows, self.metrics, self.ended, self.broken = [], [], [], [], False

    def init(self, **fields):
        self._fail()
        self.inits.append(fields)
        return self

    def Histogram(self, np_histogram):
        return np_histogram

    def define_metric(self, *names, **fields):
        self.metrics.append((*names, fields))

    def log(self, values):
        self._fail()
        self.rows.append(values)

    def finish(self, exit_code):
        self.ended.append(exit_code)

    def _fail(self):
        if self.broken:
            raise self.errors.Error("no API key\nconfigured")


@pytest.fixture
def wandb(monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_what_is_sent(tmp_path, wandb):
    (tmp_path / "run_7").mkdir()
    sender = WandbRun(SPEC, tmp_path / "run_7", {"seed": 1, "sizes": (1, 2)})
    sender.write(
        {"step": 5, "train/loss": 1.5, "block_00/load": [0.75, 0.25], "nested": [[1.0]], "test/parameters": "last"}
    )
    sender.close()
    (init,) = wandb.inits
    assert (init["project"], init["name"], init["tags"], init["resume"]) == ("experts", "run_7", ["tiny"], "allow")
    assert init["config"] == {"seed": 1, "sizes": [1, 2]} and init["dir"] == str(tmp_path / "run_7")
    (row,) = wandb.rows
    # Expert 0 has the bar from 0 to 1, expert 1 that from 1 to 2; a matrix has no picture there.
    assert row == {"step": 5, "train/loss": 1.5, "block_00/load": ([0.75, 0.25], [0, 1, 2]), "test/parameters": "last"}
    assert ("*", {"step_metric": "step"}) in wandb.metrics and wandb.ended == [0]


def test_a_resumed_run_is_the_same_one_and_repeats_nothing(tmp_path, wandb):
    rows = [{"step": step, "train/loss": float(step)} for step in (1, 2, 3, 4)]
    first = WandbRun(SPEC, tmp_path, {}, rows[:1])  # a run that was begun without W&B
    for row in rows[1:3]:
        first.write(row)
    again = WandbRun(SPEC, tmp_path, {}, rows[:2])  # killed after step 3, and restored from a checkpoint of step 2
    for row in (*rows[2:], {"step": 4, "test/accuracy": 0.5}):
        again.write(row)
    assert wandb.inits[0]["id"] == wandb.inits[1]["id"]
    assert [(row["step"], "test/accuracy" in row) for row in wandb.rows] == [
        (1, False), (2, False), (3, False), (4, False), (4, True),
    ]  # fmt: skip
    WandbRun(Wandb(project="other"), tmp_path, {})
    assert wandb.inits[2]["id"] != wandb.inits[0]["id"]  # an id of one project is none of another
    (tmp_path / "wandb.json").write_text("{")
    WandbRun(SPEC, tmp_path, {})
    assert len({init["id"] for init in wandb.inits}) == 3


def test_a_skipped_batch_and_the_means_of_its_step_are_two_rows(tmp_path, wandb):
    sender = WandbRun(SPEC, tmp_path, {})
    for row in ({"step": 3, "skipped": "block_01"}, {"step": 3, "train/loss": 1.0}, {"step": 3, "train/loss": 1.0}):
        sender.write(row)
    assert [sorted(row) for row in wandb.rows] == [["skipped", "step"], ["step", "train/loss"]]


def test_failures(tmp_path, wandb, caplog):
    wandb.broken = True
    with pytest.raises(SpecError, match=r"no API key configured.*wandb login.*mode='offline'"):
        WandbRun(SPEC, tmp_path, {})
    wandb.broken = False
    sender = WandbRun(SPEC, tmp_path, {})
    wandb.broken = True
    sender.write({"step": 1, "train/loss": 1.0})  # training does not end for it
    assert "step 1 was not sent" in caplog.text
    wandb.broken = False
    sender.write({"step": 2, "train/loss": 1.0})
    assert [row["step"] for row in wandb.rows] == [2]
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:  # as in the `finally` of a run that fails
        sender.close()
    assert wandb.ended == [1]


def test_without_the_library(monkeypatch, tmp_path, linear_task, memory_data):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'moejax\[wandb\]'.*train.wandb=None"):
        train(tmp_path / "run", linear_task(), memory_data(), wandb=SPEC)
    assert not (tmp_path / "run").exists()
    check_installed(None)
    Records(tmp_path, step=0).close()


def train(workdir, task, data, **fields):
    spec = Train(steps=4, log_every=2, eval_every=2, progress=False, tensorboard=False, **fields)
    return run(task, data, Optimizer(learning_rate=0.01), spec, workdir=workdir, config={"seed": 5}, seed=5)


def test_the_loop_sends_its_rows(tmp_path, wandb, linear_task, memory_data):
    train(tmp_path, linear_task(), memory_data(), wandb=SPEC)
    assert [row["step"] for row in wandb.rows] == [2, 4, 4] and "valid/accuracy" in wandb.rows[0]
    assert wandb.rows[0]["block_01/load"] == ([0.25, 0.75], [0, 1, 2])
    assert wandb.ended == [0] and not (tmp_path / "tensorboard").exists()


def test_the_spec():
    built = build_spec(Train, {"steps": 1, "wandb": {"project": "experts", "mode": "offline"}}, path="config.train")
    assert built.wandb == Wandb(project="experts", mode="offline")
    assert build_spec(Train, {"steps": 1, "wandb": None}).wandb is None
    with pytest.raises(SpecError, match=r"projet is not a field of Wandb.*Did you mean 'project'"):
        build_spec(Train, {"steps": 1, "wandb": {"projet": "x"}}, path="config.train")
    with pytest.raises(SpecError, match="is not allowed.*offline"):
        build_spec(Train, {"steps": 1, "wandb": {"project": "x", "mode": "ofline"}}, path="config.train")
    for name in ("", "team/experts"):
        with pytest.raises(SpecError, match="must be a name"):
            Wandb(project=name)


@pytest.mark.slow
@pytest.mark.lenient
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra `wandb` is not installed")
def test_offline_with_its_own_library(tmp_path, monkeypatch, linear_task, memory_data):
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for _ in range(2):  # the second finds nothing to do and starts no other
        train(tmp_path / "run", linear_task(), memory_data(), wandb=SPEC)
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    kept = json.loads((tmp_path / "run" / "wandb.json").read_text())
    assert [file.name for file in files] == [f"run-{kept['id']}.wandb"]
    content = files[0].read_bytes()
    assert b"train/loss" in content and b"test/accuracy" in content and kept["sent"] == [4, 2]
