"""What is seen of a run: one line per row where nobody looks, a table above a bar on a terminal, and never a wait for a step."""

import io
import os

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.train import live_table
from moejax.train.live_table import LiveTable, number
from moejax.train.router_health import busiest_share, router_health


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


ROW = {"step": 20, "time": 1.0, "train/loss": 1.23456, "train/accuracy": 0.612, "train/learning_rate": 0.0019}
ROW |= {"train/images_per_second": 1240.4}
HEALTH = {
    "block_01/load": jnp.array([0.5, 0.25, 0.25, 0.0]),
    "block_01/dropped": jnp.float32(0.02),
    "block_01/entropy": jnp.float32(1.25),
    "block_03/load": jnp.array([0.7, 0.1, 0.1, 0.1]),
    "block_03/dropped": jnp.float32(0.01),
    "block_03/entropy": jnp.float32(0.5),
    "loss": jnp.float32(1.0),
}


def table(stream, metric="valid/accuracy", **fields):
    return LiveTable(steps=100, step=0, metric=metric, stream=stream, clock=fields.pop("clock", Clock()), **fields)


def test_a_line_per_row_where_stdout_is_no_terminal():
    out, clock = io.StringIO(), Clock()
    view = table(out, clock=clock)
    view.advance()
    view.health(HEALTH)
    clock.now = 10.0  # compiled and made 20 steps
    view.show(ROW)
    clock.now = 14.0  # 20 more: 0.2 s each, so 60 take 12 s; compilation is not in it
    view.show(ROW | {"step": 40, "valid/loss": 1.0, "valid/accuracy": 0.63})
    view.close()
    first, second = out.getvalue().splitlines()
    # Loads 0.7 of 4 experts: 2.8 times an even share, in block 3; dropped is largest in block 1; entropy is least in block 3.
    assert first == (
        "step 20/100  loss 1.235  accuracy 61.2%  rate 1.9e-03  images/s 1,240  dropped 2.0%  busiest x2.80 @3  "
        "entropy 0.50 @3  left 00:40"
    )
    assert "step 40/100" in second and "valid/accuracy 63.0%" in second and second.endswith("left 00:12")
    assert "\r" not in out.getvalue() and "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    ("metric", "row", "shown", "absent"),
    [
        ("valid/loss", {"train/loss": 0.5, "valid/loss": 0.25}, ["loss 0.5", "valid/loss 0.25"], ["accuracy", "dropped"]),
        (
            "valid/bits_per_byte",
            {"train/loss": 2.5, "train/accuracy": 0.4, "train/tokens_per_second": 9000.0, "valid/loss": 2.0}
            | {"valid/bits_per_byte": 3.5},
            ["accuracy 40.0%", "valid/bits_per_byte 3.5", "tokens/s 9,000"],
            ["images/s"],
        ),
        ("valid/accuracy", {"train/loss": float("nan")}, ["loss nan"], ["valid"]),
        ("valid/accuracy", {"train/skipped": 3, "train/images_per_second": 1.0}, ["images/s 1"], ["loss"]),
    ],
    ids=["diffusion", "language", "nan", "all skipped"],
)  # fmt: skip
def test_rows_of_every_task(metric, row, shown, absent):
    out = io.StringIO()
    table(out, metric).show({"step": 5} | row)
    (line,) = out.getvalue().splitlines()
    assert all(text in line for text in shown), line
    assert not any(text in line for text in absent), line


def test_a_table_on_a_terminal(monkeypatch):
    monkeypatch.setattr(live_table.shutil, "get_terminal_size", lambda fallback: os.terminal_size((200, 24)))
    out = Terminal()
    view = table(out)
    view.health(HEALTH)
    for step in range(1, 23):
        view.advance()
        view.show(ROW | {"step": step})
    view.close()
    lines = [line for line in out.getvalue().replace("\r", "\n").splitlines() if "loss" in line or "1.235" in line]
    heads = [i for i, line in enumerate(lines) if "loss" in line]
    assert heads == [0, live_table.HEAD_EVERY + 1]  # the names come again before they leave the screen
    head, row = lines[0], lines[1]
    for name, text in (("loss", "1.235"), ("valid/accuracy", "-"), ("busiest", "x2.80 @3"), ("images/s", "1,240")):
        assert head.index(name) + len(name) == row.index(text + " ") + len(text)  # right-aligned below its name
    assert "22/100" in out.getvalue()  # the bar


def test_a_narrow_terminal_keeps_what_matters(monkeypatch):
    monkeypatch.setattr(live_table.shutil, "get_terminal_size", lambda fallback: os.terminal_size((43, 24)))
    out = Terminal()
    view = table(out)
    view.health(HEALTH)
    view.show(ROW | {"valid/accuracy": 0.5})
    view.close()
    head, row = [line for line in out.getvalue().replace("\r", "\n").splitlines() if "loss" in line or "1.235" in line]
    assert head.split() == ["step", "loss", "valid/accuracy"] and len(row) < 43


def test_quiet_prints_and_asks_for_nothing():
    class Untouchable:
        def __array__(self, *_):
            raise AssertionError("the host waits for the device")

    out = Terminal()
    view = table(out, shown=False)
    view.advance()
    view.health({"block_00/load": Untouchable()})
    view.show(ROW)
    view.close()
    assert out.getvalue() == ""


def test_health_is_that_of_the_worst_layer():
    assert router_health({"loss": np.float32(1.0)}) is None
    # Soft MoE and merges report what experts serve; where the router says what it asks for, that counts.
    found = router_health(
        {"block_02/served_load": np.array([0.75, 0.25]), "block_04/served_load": np.array([0.5, 0.5])}
    )
    assert found.busiest == (2, 1.5) and found.dropped is None and found.entropy is None
    both = {"block_02/served_load": np.array([0.75, 0.25]), "block_02/load": np.array([0.5, 0.5])}
    assert router_health(both).busiest == (2, 1.0)
    assert busiest_share([0.0, 0.0]) == 0.0


def test_numbers():
    assert [number("loss", v) for v in (None, 123456.0, float("inf"))] == ["-", "1.235e+05", "inf"]
    assert [number(name, 0.5) for name in ("test/accuracy", "accuracy", "accuracy/digits")] == ["50.0%", "50.0%", "0.5"]
