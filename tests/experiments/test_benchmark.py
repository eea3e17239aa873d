"""The benchmark runs, and its bounds are the FLOPs counted by hand."""

import json

import pytest

from tests.command_lines import typed


def run(root, *arguments):
    return typed(root, "benchmark.py", *arguments)


@pytest.mark.slow
def test_smoke(root, tmp_path):
    done = run(root, "--smoke", "--expert_dim=16", "--capacity_factor=1.5", f"--output={tmp_path / 'times.json'}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "times.json").read_text())
    rows = {row["layer"]: row for row in record["results"] if row["pass"] == "forward"}
    assert len(record["results"]) == 2 * len(rows)
    assert {name.rpartition("/")[2].strip() for name in rows} == {"dense MLP", "ragged", "gather", "einsum", "merge"}
    assert all(row["milliseconds"] > 0 and row["ratio"] > 0 for row in record["results"])
    # G S = 2 * 8 tokens, D 8, K 2, F 16, E 4. Dense: 16 * 4 * 8 * 32 = 16384. The router: 16 * 2 * 8 * 4 = 1024.
    # Weighing the K outputs of each token is element by element, no product. Dropless rows: 16 * 2, each 4 * 8 * 16: 16384.
    assert rows["dense MLP"]["bound"] == 1
    assert rows["top_k (dropless) / ragged"]["bound"] == 1 + 1024 / 16384
    # Buffers: C = 1.5 * 8 * 2 / 4 = 6 slots of 4 experts in 2 groups: 48 rows, 1.5 times those of the dense MLP.
    assert rows["top_k / gather"]["bound"] == 1.5 + 1024 / 16384
    assert record["environment"]["versions"]["jax"]


@pytest.mark.slow
def test_flags_that_make_no_layer(root):
    done = run(root, "--num_experts=2", "--num_selected_experts=3")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: num_selected_experts=3")
    assert run(root, "--num_experts=many").returncode == 2
