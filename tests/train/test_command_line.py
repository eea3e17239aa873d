"""What a wrong command line gets: one line, before anything is compiled."""

import pytest

from tests.command_lines import typed

CONFIG = "configs/vit/patchwork.py:smoke"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--config={CONFIG}", "--config.optimizer.learning_rat=1"], 'Did you mean "learning_rate"'),
        ([f"--config={CONFIG},modle=vmoe"], "Did you mean 'model'"),
        ([f"--config={CONFIG}", "--config.optimizer.name=adan"], "Did you mean 'adamw'"),
        ([f"--config={CONFIG}", "--config.model.num_classes=7"], "patchwork has 29 classes"),
    ],
    ids=["key", "argument", "value", "classes"],
)
def test_wrong_command_lines(tmp_path, root, arguments, message):
    done = typed(root, "train.py", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
