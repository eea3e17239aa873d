"""What a wrong command line gets: one line, before anything is compiled."""

import subprocess
import sys
import time

import pytest

from tests.child_programs import environment
from tests.command_lines import typed

CONFIG = "configs/vit/patchwork.py:smoke"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [f"--config={CONFIG}", "--config.optimizer.learning_rat=1"],
            "--config.optimizer.learning_rat: the config has no key 'learning_rat'. Did you mean 'learning_rate'",
        ),
        ([f"--config={CONFIG},modle=vmoe"], "Did you mean 'model'"),
        ([f"--config={CONFIG},", "model=vmoe"], "'model=vmoe' belongs to no flag"),
        ([f"--config={CONFIG}", "--config.optimizer.name=adan"], "Did you mean 'adamw'"),
        ([f"--config={CONFIG}", "--config.model.num_classes=7"], "patchwork has 29 classes"),
    ],
    ids=["key", "argument", "blank", "value", "classes"],
)
def test_wrong_command_lines(tmp_path, root, arguments, message):
    done = typed(root, "train.py", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_preempted_run_ends_with_the_code_that_its_scheduler_wants(tmp_path, root):
    line = [sys.executable, "experiments/train.py", f"--config={CONFIG},model=dense", f"--workdir={tmp_path / 'run'}"]
    line += [
        "--quiet",
        "--config.train.steps=100000",
        "--config.train.eval_every=0",
        "--config.train.checkpoint_every=20",
    ]
    for more, code in ((["--preemption_exit_code=143"], 143), ([], 0)):
        done = sorted((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
        with subprocess.Popen(
            [*line, *more], cwd=root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            while sorted((tmp_path / "run" / "checkpoints").glob("[0-9]*")) == done and process.poll() is None:
                time.sleep(0.05)
            process.terminate()
            said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
        assert "stopped by signal 15 at step" in said and "Traceback" not in said
    changed = typed(root, "train.py", *line[2:], "--config.optimizer.learning_rate=0.5")
    assert changed.returncode == 2
    assert "you changed optimizer.learning_rate from 0.002 to 0.5: pass --allow-change" in changed.stderr
    assert len(changed.stderr.strip().splitlines()) == 1
