"""The diffusion demo from nothing to pictures, in its smoke size, and what the sampling script refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.command_lines import typed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = typed(root, "demo_diffusion.py", "--smoke", f"--workdir={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_everything_is_there(demo):
    with np.load(demo / "samples.npz", allow_pickle=False) as samples:
        assert samples["samples"].shape == (20, 28, 28, 1) and samples["samples"].dtype == np.uint8
        np.testing.assert_array_equal(samples["label"], np.repeat(np.arange(10), 2))
        assert json.loads(str(samples["facts"]))["guidance"] == 2.5
    with Image.open(demo / "denoising.gif") as animation:
        assert animation.n_frames == 3
    with Image.open(demo / "grid.png") as grid:
        assert min(grid.size) > 100
    scores = json.loads((demo / "scores.json").read_text())
    assert scores["comparisons"] and scores["environment"]
    assert (demo / "usage" / "expert_usage.md").is_file() and list((demo / "usage").glob("*.png"))


def test_a_sweep_of_guidance(root, demo, tmp_path):
    done = typed(root, "sample.py", "--checkpoint", demo / "dit_moe", "--output", tmp_path, "--guidance=1,3", "--per_class=1",
               "--classes=Bag,9", "--steps=2", "--sampler=dpm_solver_pp", "--noanimation")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "grid-1.png", "grid-3.png", "samples-1.npz", "samples-3.npz", "sweep.png"
    }  # fmt: skip
    with np.load(tmp_path / "samples-3.npz", allow_pickle=False) as samples:
        np.testing.assert_array_equal(samples["label"], [8, 9])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--classes=Bagg", "did you mean 'Bag'"),
        ("--sampler=huen", "did you mean 'heun'"),
        ("--guidance=two", "'two' is no number"),
        ("--guidance=-1", "guidance.scale=-1"),
        ("--interval=0.7,0.2", "guidance.interval"),
        ("--per_class=0", "per_class"),
    ],
)
def test_wrong_flags(root, demo, tmp_path, flag, message):
    done = typed(root, "sample.py", "--checkpoint", demo / "dit_moe", "--output", tmp_path, flag)
    assert done.returncode in (1, 2)
    assert message.lower() in done.stderr.lower(), done.stderr
    assert "Traceback" not in done.stderr


def test_a_classifier_does_not_sample(root, demo, tmp_path):
    done = typed(root, "sample.py", "--checkpoint", demo / "classifier", "--output", tmp_path)
    assert done.returncode == 2
    assert "not 'diffusion'" in done.stderr


def test_models_are_compared(root, tmp_path):
    line = ("compare_dit.py", "--smoke", "--seeds=1", "--models=dense,soft", "--per_class=2", f"--workdir={tmp_path}")
    done = typed(root, *line)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "dit.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["dense", "soft", "real pictures"]
    assert (tmp_path / "dit.png").stat().st_size > 10_000
    assert "0 to go" in typed(root, *line).stdout
