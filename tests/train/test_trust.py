"""What a run does when it is told to stop, when a number is not finite, and when it is started again."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.train.checkpoints import Checkpoints
from moejax.train.guard import NonFiniteError
from moejax.train.lock import BusyError, Lock
from moejax.train.loop import run
from moejax.train.optimizers import Optimizer
from moejax.train.records import Records, read_rows
from moejax.train.spec import Train
from moejax.train.state import create
from moejax.train.step import build_step
from moejax.train.verify import NotDeterministicError, verify
from tests.child_programs import environment

ADAM = Optimizer(learning_rate=0.05, warmup_steps=2)
SPEC = {"steps": 12, "log_every": 3, "eval_every": 6, "checkpoint_every": 4, "progress": False, "tensorboard": False}
CONFIG = {"seed": 5, "train": {"steps": 12}, "optimizer": {"learning_rate": 0.05}}


def train(workdir, task, data, *, config=CONFIG, allow_change=False, **fields):
    spec = Train(**SPEC | fields)
    return run(task, data, ADAM, spec, workdir=workdir, config=config, seed=5, allow_change=allow_change)


def leaves(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore().leaves


def rows_of(workdir):
    drop = ("time", "train/images_per_second")
    return [{n: v for n, v in row.items() if n not in drop} for row in read_rows(workdir / "metrics.jsonl")]


def equal(one, other):
    a, b = leaves(one), leaves(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert rows_of(one) == rows_of(other)


@pytest.fixture
def interrupted(memory_data):
    """Data that send SIGTERM in the middle of the n-th evaluation of a split."""

    class Interrupted(memory_data):
        def __init__(self, split, number):
            super().__init__()
            self.split, self.number = split, number

        def eval_batches(self, split):
            self.number -= split == self.split
            for batch in super().eval_batches(split):
                yield batch
                if split == self.split and self.number == 0:
                    os.kill(os.getpid(), signal.SIGTERM)

    return Interrupted


@pytest.mark.parametrize(("split", "number", "step"), [("validation", 1, 6), ("validation", 2, 12), ("test", 1, 12)])
def test_a_stop_in_an_evaluation_changes_nothing(tmp_path, linear_task, memory_data, interrupted, split, number, step):
    fields = {"ema_decay": 0.9, "test_with": "best", "keep_last": 2, "checkpoint_every": 3}
    train(tmp_path / "whole", linear_task(noise=0.1), memory_data(), **fields)
    stopped = train(tmp_path / "cut", linear_task(noise=0.1), interrupted(split, number), **fields)
    assert (stopped.step, stopped.row, stopped.signal) == (step, None, signal.SIGTERM)
    assert [row["step"] for row in rows_of(tmp_path / "cut") if "valid/accuracy" in row] == [6, 12][: number - 1] or (
        split == "test"
    )
    train(tmp_path / "cut", linear_task(noise=0.1), memory_data(), **fields)
    equal(tmp_path / "whole", tmp_path / "cut")
    best = []
    for name in ("whole", "cut"):
        with Checkpoints(tmp_path / name / "checkpoints", read_only=True) as checkpoints:
            best.append(checkpoints.best_step())
    assert best[0] == best[1]  # the score of the interrupted evaluation is known, too


def test_a_second_resume_writes_the_pending_row_once(tmp_path, linear_task, memory_data, interrupted):
    train(tmp_path / "whole", linear_task(), memory_data())
    train(tmp_path / "cut", linear_task(), interrupted("validation", 1))
    records = Records(tmp_path / "cut", step=6, tensorboard=False)  # as one that was killed after its first row
    records.write({"step": 6, "train/loss": 0.0})
    records.close()
    train(tmp_path / "cut", linear_task(), memory_data())
    equal(tmp_path / "whole", tmp_path / "cut")


class Broken:
    """Makes the labels of these batches, counted from 1, such that the loss of the task explodes."""

    def __init__(self, iterator, numbers):
        self.iterator, self.numbers = iterator, numbers

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self.iterator)
        return batch | {"label": np.full(8, 99, np.int32)} if self.iterator.number in self.numbers else batch

    def get_state(self):
        return self.iterator.get_state()

    def set_state(self, state):
        self.iterator.set_state(state)


@pytest.fixture
def exploding(memory_data):
    class Exploding(memory_data):
        def __init__(self, *numbers, before=lambda number: None):
            super().__init__(before)
            self.numbers = numbers

        def train_iterator(self, **kwargs):
            return Broken(super().train_iterator(**kwargs), self.numbers)

    return Exploding


def test_a_skipped_step_changes_nothing_but_its_number(linear_task):
    task = linear_task(explode_at=99)
    transformation = ADAM.build(jax.eval_shape(task.init, jax.random.key(0))[0], 12)
    state = create(task, transformation, jax.random.key(0), ema=True)
    step = jax.jit(build_step(task, transformation, ema_decay=0.9, skip_nonfinite=True))
    fine = {"image": jnp.ones((4, 4)), "label": jnp.zeros((4,), jnp.int32)}
    state, _ = step(state, fine)
    after, metrics = step(state, fine | {"label": jnp.full((4,), 99, jnp.int32)})
    assert not np.isfinite(float(metrics["loss"])) and int(after.step) == int(state.step) + 1
    for name in ("params", "state", "ema"):
        for old, new in zip(jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(after, name)), strict=True):
            np.testing.assert_array_equal(old, new)
    # Moments and their count stay; the schedule's count goes on, so that the rate is that of the step's number.
    (adam, _, schedule), (adam_after, _, schedule_after) = (
        [part for part in tree if part is not None] if len(tree) == 3 else [tree[0], None, tree[-1]]
        for tree in (state.opt_state, after.opt_state)
    )
    assert int(adam.count) == int(adam_after.count) == 1
    np.testing.assert_array_equal(adam.mu["bias"], adam_after.mu["bias"])
    assert int(schedule.count) == 1 and int(schedule_after.count) == 2
    again, _ = step(after, fine)
    assert np.isfinite(again.params["bias"]).all() and int(again.step) == 3


def test_skipped_batches_are_rows_and_a_resumed_run_skips_the_same(tmp_path, linear_task, exploding, terminate_at):
    fields = {"on_nonfinite": "skip", "ema_decay": 0.9}
    task = linear_task(noise=0.1, explode_at=99)
    train(tmp_path / "whole", task, exploding(5, 8, 9), **fields)
    rows = rows_of(tmp_path / "whole")
    assert [row["step"] for row in rows if "skipped" in row] == [5, 8, 9]
    assert all("block_01 (metric 'block_01/load')" in row["skipped"] for row in rows if "skipped" in row)
    assert [row["train/skipped"] for row in rows if "train/skipped" in row] == [0, 1, 3, 3]
    assert all(np.isfinite(row["train/loss"]) for row in rows if "train/loss" in row)
    assert all(np.isfinite(leaf).all() for name, leaf in leaves(tmp_path / "whole").items() if name != "key")
    stopped = train(tmp_path / "cut", task, exploding(5, 8, 9, before=terminate_at(10)), **fields)
    assert stopped.signal == signal.SIGTERM and 0 < stopped.step < 12
    train(tmp_path / "cut", task, exploding(5, 8, 9), **fields)
    equal(tmp_path / "whole", tmp_path / "cut")


def test_a_row_of_skipped_steps_alone(tmp_path, linear_task, exploding):
    train(tmp_path, linear_task(explode_at=99), exploding(4, 5, 6), on_nonfinite="skip")
    row = next(row for row in rows_of(tmp_path) if row["step"] == 6 and "skipped" not in row)
    assert row["train/skipped"] == 3 and "train/loss" not in row and "valid/accuracy" in row


def test_too_many_skips_end_the_run(tmp_path, linear_task, exploding):
    with pytest.raises(NonFiniteError) as error:
        train(tmp_path, linear_task(explode_at=99), exploding(5, 7, 8), on_nonfinite="skip", max_skipped=2)
    message = str(error.value)
    assert "step 8 is not finite" in message and "3 steps were skipped (5, 7, 8), and train.max_skipped=2" in message
    assert str(tmp_path / "checkpoints" / "4") in message


def test_another_config_is_refused_unless_it_is_allowed(tmp_path, linear_task, memory_data, capsys):
    train(tmp_path, linear_task(), memory_data(), steps=4)
    other = CONFIG | {"optimizer": {"learning_rate": 0.1}}
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock")
    with pytest.raises(SpecError) as error:
        train(tmp_path, linear_task(), memory_data(), config=other)
    assert "you changed optimizer.learning_rate from 0.05 to 0.1: pass --allow-change" in str(error.value)
    assert "\n" not in str(error.value)
    after = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock")
    assert before == after
    assert train(tmp_path, linear_task(), memory_data(), config=other, allow_change=True).step == 12
    assert "optimizer.learning_rate from 0.05 to 0.1" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text()) == other


def test_two_runs_in_one_folder(tmp_path, linear_task, memory_data):
    program = (
        "import sys, time; from moejax.train.lock import Lock; import pathlib\n"
        "with Lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    line = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(BusyError, match=f"in use by process {holder.pid} on "):
                train(tmp_path, linear_task(), memory_data())
            assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]
        finally:
            holder.kill()
            holder.wait()
    train(tmp_path, linear_task(), memory_data(), steps=2)  # the lock of a killed process holds nobody up
    with Lock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_starts_are_recorded(tmp_path, linear_task, memory_data, terminate_at, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments/train.py", "--config", "a b.py"])
    train(tmp_path, linear_task(), memory_data(terminate_at(7)))
    train(tmp_path, linear_task(), memory_data())
    first, second = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert first["command"] == "python experiments/train.py --config 'a b.py'"
    assert first["step"] == 0 < second["step"] and first["seed"] == 5 and first["mesh"]["data"] == 1
    assert first["versions"]["jax"] == jax.__version__ and first["platform"] == "cpu" and first["folder"] == os.getcwd()


def test_verify_says_which_leaf_or_batch_differs(linear_task, memory_data):
    spec = Train(**SPEC)
    verdict = verify(linear_task(noise=0.1), memory_data(), ADAM, spec, seed=3)
    assert verdict.steps == 5 and len(verdict.losses) == 5 and len(verdict.fingerprint) == 16
    assert verify(linear_task(noise=0.1), memory_data(), ADAM, spec, seed=3) == verdict
    assert verify(linear_task(noise=0.1), memory_data(), ADAM, spec, seed=4).fingerprint != verdict.fingerprint

    class Restless(memory_data):
        def train_iterator(self, **kwargs):
            self.seed = time.monotonic_ns()
            return super().train_iterator(seed=self.seed)

    with pytest.raises(NotDeterministicError, match="not deterministic: batch 1: image differs"):
        verify(linear_task(), Restless(), ADAM, spec, seed=3)
