"""The curves of exchanges, from the routing that lies in the repository."""

import json

import pytest

from tests.command_lines import typed


@pytest.mark.slow
def test_curves_of_the_recorded_routing(root, tmp_path):
    out = tmp_path / "curves.json"
    done = typed(root, "exchange_curves.py", "--machine=h100", f"--output={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "NVLink" in done.stdout and "latency assumed" in done.stdout
    found = json.loads(out.read_text())["h100"]
    kept = json.loads((root / "experiments/results/exchange_curves.json").read_text())["h100"]
    assert found == kept  # what the repository shows is what it computes
    assert out.with_suffix(".png").stat().st_size > 10_000 and "two_level" in out.with_suffix(".md").read_text()


@pytest.mark.slow
def test_a_trace_that_is_none(root, tmp_path):
    done = typed(root, "exchange_curves.py", f"--trace={tmp_path / 'none.npz'}", f"--output={tmp_path / 'x.json'}")
    assert done.returncode == 2 and "no such file of recorded routing" in done.stderr and "Traceback" not in done.stderr
