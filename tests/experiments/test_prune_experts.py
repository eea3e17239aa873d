"""Experts pruned after fine-tuning, by the command lines that users type."""

import json

import pytest

from tests.command_lines import typed

pytestmark = pytest.mark.slow


def test_from_two_runs_to_a_table(root, tmp_path):
    before, after, out = tmp_path / "before", tmp_path / "after", tmp_path / "pruned.json"
    config = root / "configs/vit/patchwork.py:model=vmoe,smoke"
    done = typed(root, "train.py", f"--config={config}", f"--workdir={before}")
    assert done.returncode == 0, done.stderr[-2000:]
    config = f"{root}/configs/vit/finetune.py:smoke,source={before}"
    done = typed(root, "train.py", f"--config={config}", f"--workdir={after}")
    assert done.returncode == 0, done.stderr[-2000:]
    line = ("prune_experts.py", f"--before={before}", f"--after={after}", f"--output={out}", "--draws=2")
    done = typed(root, *line, "--shares=0.5")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert {row["pruned"] for row in found["rows"]} == {0, len(next(iter(found["growth"].values()))) // 2}
    assert len({row["accuracy"] for row in found["rows"] if row["pruned"] == 0}) == 1
    assert out.with_suffix(".png").exists() and "| norm growth |" in out.with_suffix(".md").read_text()
    wrong = typed(root, *line, "--shares=1")
    assert wrong.returncode == 2 and "must leave between 1 and all" in wrong.stderr
    lost = typed(root, "prune_experts.py", f"--before={tmp_path}", f"--after={after}", f"--output={out}")
    assert lost.returncode == 1 and "Traceback" not in lost.stderr
