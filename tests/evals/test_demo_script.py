"""The demo from end to end, with two steps of tiny models; and how its parts answer wrong folders."""

import json

import pytest

from tests.command_lines import typed


@pytest.mark.slow
def test_the_demo_trains_evaluates_and_reports(root, tmp_path):
    first = typed(root, "demo.py", "--smoke", "--workdir", str(tmp_path))
    assert first.returncode == 0, first.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    for label in (
        "Dense ViT",
        "V-MoE",
        "Expert choice",
        "Soft MoE",
        "Logistic regression",
        "Which expert looked where",
    ):
        assert label in page
    assert set(json.loads((tmp_path / "timing.json").read_text())["milliseconds"]) == {
        f"patchwork_{model}" for model in ("dense", "vmoe", "expert_choice", "soft")
    }
    run = tmp_path / "vmoe" / "seed_0"
    measured = json.loads((run / "evaluation.json").read_text())["accuracy"]["all"]["accuracy"]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert measured == pytest.approx(last["test/accuracy"], abs=1e-6)  # the checkpoint is the model that was tested

    collected = tmp_path / "results.json"
    assert typed(root, "report.py", "--workdir", str(tmp_path), "--collect", str(collected)).returncode == 0
    assert len(json.loads(collected.read_text())) == 4

    again = typed(root, "demo.py", "--smoke", "--workdir", str(tmp_path))
    assert again.returncode == 0, again.stderr
    logs = [(tmp_path / model / "seed_0.log").read_text() for model in ("dense", "vmoe", "expert_choice", "soft")]
    assert all("nothing to do" in log for log in logs)  # a finished demo trains nothing again
    other = typed(root, "demo.py", "--workdir", str(tmp_path))
    assert other.returncode == 1 and "give another --workdir" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "message"), [("report.py", "holds no run"), ("evaluate.py", "holds no checkpoints")])
def test_a_wrong_folder_gives_one_clear_error(root, tmp_path, name, message):
    found = typed(root, name, "--workdir", str(tmp_path))
    assert found.returncode in (1, 2)
    assert message in found.stderr
    assert "Traceback" not in found.stderr
