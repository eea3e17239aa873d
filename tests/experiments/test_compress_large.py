"""The script that measures compressors on one large bank, on a small one."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_methods_are_measured_in_processes_of_their_own(root, tmp_path):
    output = tmp_path / "rows.json"
    output.write_text(json.dumps({"rows": [{"method": "svd"}, {"method": "kept"}]}))
    command = [
        sys.executable,
        str(root / "experiments/compress_large.py"),
        "--methods=svd,lorap_channels",
        "--experts=2",
    ]
    command += ["--dim=24", "--expert_dim=40", "--budget=0.5", f"--output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads(output.read_text())["rows"]}
    assert set(rows) == {"svd", "lorap_channels", "kept"}
    assert rows["svd"]["shape"] == [2, 24, 40] and rows["lorap_channels"]["kernels"] == ["up", "gate", "down"]
    for name in ("svd", "lorap_channels"):
        assert 0 < rows[name]["share"] <= 0.5
        assert 0 < rows[name]["gib_before"] <= rows[name]["gib_peak"] < 4
    assert "of 12 GiB" in done.stdout


@pytest.mark.slow
def test_unknown_methods(root):
    command = [sys.executable, str(root / "experiments/compress_large.py"), "--methods=svdd"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "'svdd' is unknown. Did you mean 'svd'" in done.stderr
