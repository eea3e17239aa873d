"""Rows beyond a device's room give zeros, in value and all gradients, and are counted."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["", "as_they_are"])
def test_less_room_than_rows(rows):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    command = [sys.executable, str(pathlib.Path(__file__).with_name("bounded_rooms.py")), rows]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2
    for exchange, error, told, lost, peak in found:
        assert error <= 1e-5, exchange
        assert told == pytest.approx(lost, abs=1e-6), exchange
        spills = exchange.startswith("LeastLoaded")
        assert (lost == 0) == spills  # what spills needs no more than its share
        assert peak == (1.0 if spills else 0.0)
