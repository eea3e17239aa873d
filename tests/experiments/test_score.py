"""Scoring and expert usage by the command lines that users type, on runs of two steps."""

import json

import numpy as np
import pytest

from tests.command_lines import typed

pytestmark = pytest.mark.slow


def command(root, script, *arguments):
    return typed(root, f"{script}.py", *arguments)


def succeeds(root, script, *arguments):
    done = command(root, script, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def runs(root, tmp_path_factory):
    """A classifier of patchwork and a diffusion model of garments, and two files of samples for the classifier."""
    folder = tmp_path_factory.mktemp("runs")
    succeeds(root, "train", "--config=configs/vit/patchwork.py:smoke", f"--workdir={folder / 'classifier'}")
    succeeds(root, "train", "--config=configs/dit/garments.py:model=moe,smoke", f"--workdir={folder / 'dit'}")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pictures = rng.integers(0, 256, (25, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", samples=pictures, label=rng.integers(0, 29, 25).astype(np.int32))
    return folder


def test_scores_of_two_files(root, runs):
    line = ("--samples", runs / "a.npz", runs / "b.npz", f"--classifier={runs / 'classifier'}", "--reference=test")
    told = succeeds(root, "score", *line)
    content = json.loads((runs / "scores.json").read_text())
    (found,) = content["comparisons"]
    assert [row["name"] for row in found["rows"]] == ["a.npz", "b.npz"] and found["count"] == 25
    assert found["floor"]["frechet"] > 0 and found["floor"]["agreement"]["count"] == 25
    assert len(told.splitlines()) >= 6 and "real: patchwork/test (held out)" in told
    # The second time features come from the cache, and the numbers are the same.
    assert len(list((runs / "classifier" / "reference").iterdir())) == 1
    again = succeeds(root, "score", *line, f"--output={runs / 'again.json'}")
    assert again.splitlines()[:-1] == told.splitlines()[:-1]


def test_usage_of_a_diffusion_run(root, runs):
    options = ("--steps=2", "--times=3", "--samples=8", "--batch_size=8", "--draws=20", "--pictures=32")
    told = succeeds(root, "expert_usage", f"--checkpoint={runs / 'dit'}", f"--output={runs / 'usage'}", *options)
    assert told.count("| **") == 9  # three observations, on pictures, on sampling, and before training
    with np.load(runs / "usage" / "usage-sampling.npz", allow_pickle=False) as arrays:
        assert arrays["by_time"].shape == (2, 2, 14) and arrays["by_position"].shape == (2, 49, 14)


@pytest.mark.parametrize(
    ("script", "arguments", "code", "message"),
    [
        ("score", ("--classifier={runs}/classifier",), 2, "--samples names no file"),
        ("score", ("--samples={runs}/none.npz", "--classifier={runs}/classifier"), 2, "no such file of samples"),
        ("score", ("--samples={runs}/a.npz", "--classifier={runs}/nowhere"), 1, "nowhere"),
        ("score", ("--samples={runs}/a.npz", "--classifier={runs}/dit"), 2, "its task is 'diffusion'"),
        ("score", ("--samples={runs}/a.npz", "--classifier={runs}/classifier", "--reference=tset"), 2, "neither a file"),
        ("expert_usage", ("--checkpoint={runs}/classifier", "--output={runs}/x"), 2, "not 'diffusion'"),
    ],
)  # fmt: skip
def test_wrong_command_lines(root, runs, script, arguments, code, message):
    done = command(root, script, *(argument.format(runs=runs) for argument in arguments))
    assert done.returncode == code, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
