"""Work per device of an exchange in two levels, compiled for more and more simulated devices."""

import json

import pytest

from tests.command_lines import typed


@pytest.mark.slow
def test_work_of_a_device_stays_while_devices_are_added(root, tmp_path):
    out = tmp_path / "weak.json"
    sizes = ["--tokens=128", "--dim=16", "--hidden=512", "--group=4"]
    devices = [f"--devices={n}" for n in (8, 32, 64)]
    done = typed(root, "weak_scaling.py", "--chips=cpu", *devices, *sizes, f"--output={out}")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert max(found["largest_change"].values()) <= 0.05 and set(found["largest_change"]) == {"flops", "exchanged"}
    buffers = 2 * 128 * 16 * 4  # K S slots of D numbers
    for row in found["rows"]:
        n = row["devices"]
        # There and back, and so the gradients; among 4 neighbours, and among n / 4 groups.
        assert row["exchanged"] == 4 * 2 * buffers
        assert row["wire"] == pytest.approx(4 * buffers * (3 / 4 + (1 - 4 / n)))
        experts = 2 * 2 * 128 * 2 * 16 * 512  # two products of K S rows, D by F
        assert 3 * experts <= row["flops"] <= 3.2 * experts
    assert "| 64 |" in out.with_suffix(".md").read_text()
