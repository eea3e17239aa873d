"""A run that is killed at random moments ends with the very bits of one that was left alone."""

import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from moejax.train.checkpoints import Checkpoints
from moejax.train.records import read_rows
from tests.child_programs import environment

STEPS = 200
CONFIG = "configs/vit/patchwork.py:smoke,model=vmoe"
OPTIONS = [
    f"--config.train.steps={STEPS}",
    "--config.train.log_every=7",
    "--config.train.eval_every=100",
    "--config.train.checkpoint_every=10",
    "--quiet",
]


def start(root, workdir, cache):
    command = [sys.executable, "experiments/train.py", "--config", CONFIG, "--workdir", str(workdir), *OPTIONS]
    env = environment(JAX_COMPILATION_CACHE_DIR=str(cache))
    return subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished_steps(workdir: pathlib.Path) -> list[int]:
    folder = workdir / "checkpoints"
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def kill_after(process, workdir, step, delay):
    """SIGKILL, `delay` seconds after the checkpoint of `step` or a later one is complete."""
    while max(finished_steps(workdir), default=-1) < step:
        assert process.poll() is None, f"the run ended before it could be killed:\n{process.stderr.read()}"
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert process.returncode == -9


def result(workdir):
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore()
    assert restored.step == STEPS
    rows = read_rows(workdir / "metrics.jsonl")
    for row in rows:
        row.pop("time", None), row.pop("train/images_per_second", None)
    return restored.leaves, rows


@pytest.mark.slow
def test_three_sigkills_change_no_bit(tmp_path, root):
    seed = random.SystemRandom().randrange(2**32)
    print("seed of the random moments:", seed)
    rng = random.Random(seed)
    whole = start(root, tmp_path / "whole", tmp_path / "cache")
    _, errors = whole.communicate(timeout=500)
    assert whole.returncode == 0, errors
    for first, last in ((10, 50), (60, 100), (110, 150)):
        process = start(root, tmp_path / "killed", tmp_path / "cache")
        kill_after(process, tmp_path / "killed", rng.randint(first, last), rng.uniform(0, 0.3))
    final = start(root, tmp_path / "killed", tmp_path / "cache")
    _, errors = final.communicate(timeout=500)
    assert final.returncode == 0, errors
    expected, expected_rows = result(tmp_path / "whole")
    found, found_rows = result(tmp_path / "killed")
    assert expected.keys() == found.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(leaf, found[name], err_msg=f"{name} (seed {seed})")
    assert found_rows == expected_rows
