"""The loop on a linear model: records, resuming, stopping, and starting from another run."""

import json
import signal

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.train.checkpoints import Checkpoints
from moejax.train.guard import NonFiniteError
from moejax.train.loop import run
from moejax.train.optimizers import Optimizer
from moejax.train.prefetch import Prefetch
from moejax.train.records import read_rows
from moejax.train.spec import Train, changed

ADAM = Optimizer(learning_rate=0.05, warmup_steps=2)
SPEC = {"steps": 12, "log_every": 3, "eval_every": 6, "checkpoint_every": 4, "progress": False, "tensorboard": False}


def train(workdir, task, data, **fields):
    return run(task, data, ADAM, Train(**SPEC | fields), workdir=workdir, config={"seed": 5}, seed=5)


def leaves(workdir, which="last"):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.restore(which=which).leaves


def without_times(workdir):
    drop = ("time", "train/images_per_second")
    return [{n: v for n, v in row.items() if n not in drop} for row in read_rows(workdir / "metrics.jsonl")]


def test_a_whole_run(tmp_path, linear_task, memory_data):
    result = train(tmp_path, linear_task(noise=0.1), memory_data(), ema_decay=0.9, test_with="best", tensorboard=True)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 12]
    assert [row["step"] for row in rows if "valid/accuracy" in row] == [6, 12]
    assert rows[1]["block_01/load"] == [0.25, 0.75]  # of the whole batches
    assert rows[-1] == result.row and rows[-1]["test/parameters"] == "best" and "test/accuracy" in rows[-1]
    assert rows[0]["train/loss"] > 0 and rows[0]["train/images_per_second"] > 0
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 5}
    assert list((tmp_path / "tensorboard").iterdir())
    # Learning rate of the last step: 0.05 * half a cosine at (11 - 2)/10 = 0.05 * 0.5 * (1 + cos(0.9 pi)) = 0.001224.
    assert rows[3]["train/learning_rate"] == pytest.approx(0.0012236, rel=1e-3)
    again = train(tmp_path, linear_task(noise=0.1), memory_data(), ema_decay=0.9, test_with="best")
    assert again.row == result.row and read_rows(tmp_path / "metrics.jsonl") == rows


def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(tmp_path, linear_task, memory_data, terminate_at):
    train(tmp_path / "whole", linear_task(noise=0.1), memory_data(), ema_decay=0.9)
    stopped = train(tmp_path / "cut", linear_task(noise=0.1), memory_data(terminate_at(7)), ema_decay=0.9)
    assert stopped.row is None and stopped.signal == signal.SIGTERM and 0 < stopped.step < 12
    assert int(leaves(tmp_path / "cut")["step"]) == stopped.step
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:  # rows of a run that got further before it died
        file.write('{"step": 11, "train/loss": 0.0}\n{"step": 12, "tra')
    done = train(tmp_path / "cut", linear_task(noise=0.1), memory_data(), ema_decay=0.9)
    assert done.step == 12
    whole, cut = leaves(tmp_path / "whole"), leaves(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "cut")


def test_a_loss_that_explodes_stops_the_run(tmp_path, linear_task, memory_data):
    class Exploding(memory_data):
        def train_iterator(self, **kwargs):
            batches = super().train_iterator(**kwargs)
            draw = type(batches).__next__

            class Broken(type(batches)):
                def __next__(self):
                    batch = draw(self)
                    return batch if self.number != 8 else batch | {"label": np.full(8, 99, np.int32)}

            batches.__class__ = Broken
            return batches

    with pytest.raises(NonFiniteError) as error:
        train(tmp_path, linear_task(explode_at=99), Exploding())
    message = str(error.value)
    assert "step 8 is not finite" in message and "block_01 (metric 'block_01/load')" in message
    assert message.count(str(tmp_path / "checkpoints" / "4")) == 1  # the last good checkpoint
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert 8 not in checkpoints.steps()
    assert all(np.isfinite(leaf).all() for name, leaf in leaves(tmp_path).items() if name != "key")


def test_another_model_is_refused_before_training(tmp_path, linear_task, memory_data):
    train(tmp_path, linear_task(), memory_data(), steps=4)
    with pytest.raises(SpecError, match="missing: ema/bias"):
        train(tmp_path, linear_task(), memory_data(), ema_decay=0.9)


def test_init_from_loads_all_but_the_named_leaves(tmp_path, linear_task, memory_data):
    train(tmp_path / "source", linear_task(), memory_data())
    source = leaves(tmp_path / "source", "best")
    still = Optimizer(name="sgd", learning_rate=1e-30, schedule="constant", momentum=0.0)
    spec = Train(**SPEC | {"init_from": str(tmp_path / "source"), "reinitialise": ("^bias",), "steps": 1})
    run(linear_task(), memory_data(), still, spec, workdir=tmp_path / "tuned", config={}, seed=1)
    tuned = leaves(tmp_path / "tuned")
    np.testing.assert_array_equal(tuned["params/body/kernel"], source["params/body/kernel"])
    assert np.abs(tuned["params/bias"]).max() < 1e-20 < np.abs(source["params/bias"]).max()  # zeros, but for the step
    wrong = Train(**SPEC | {"init_from": str(tmp_path / "source"), "reinitialise": ("haed",)})
    with pytest.raises(SpecError, match="'haed' is found in no leaf name"):
        run(linear_task(), memory_data(), still, wrong, workdir=tmp_path / "wrong", config={}, seed=1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"ema_decay": 1.0}, "must lie in"),
        ({"reinitialise": ("head",)}, "init_from gives no run"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(SpecError, match=message):
        Train(**SPEC | fields)


def test_bad_splits_and_metrics(tmp_path, linear_task, memory_data):
    with pytest.raises(SpecError, match="no such split. Did you mean 'validation'"):
        train(tmp_path, linear_task(), memory_data(), eval_split="valdation")
    with pytest.raises(SpecError, match="Did you mean 'valid/accuracy'"):
        train(tmp_path, linear_task(), memory_data(), best_metric="valid/acuracy")


def test_a_changed_config_is_said():
    before, now = {"a": {"b": 1, "c": (1, 2)}, "d": 3}, {"a": {"b": 2, "c": [1, 2]}}
    assert changed(before, now) == {"a.b": (1, 2), "d": (3, "(not there)")}


def test_prefetch_pairs_positions_and_raises(memory_data):
    def before(number):
        if number == 2:
            raise OSError("the file is gone")

    batches = Prefetch(memory_data(before).train_iterator(seed=0), lambda batch: batch)
    assert [next(batches)[1]["number"] for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="the file is gone"):
        next(batches)
    batches.close()
