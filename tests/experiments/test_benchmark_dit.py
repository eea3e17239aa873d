"""The timing of a DiT-MoE against PyTorch: both models agree, and without PyTorch one line says what to install."""

import importlib.util
import json

import pytest

from tests.command_lines import typed


def run(root, *arguments):
    return typed(root, "benchmark_dit.py", *arguments)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_both_models_agree_and_are_timed(root, tmp_path):
    done = run(
        root,
        *("--config", "configs/dit/dit_moe_paper.py:smoke", "--rounds", "2", "--batch", "2"),
        *("--output", str(tmp_path / "times.json")),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "times.json").read_text())
    assert found["difference"] < 1e-3 and found["ratio"] > 0
    assert {name: len(times) for name, times in found["seconds"].items()} == {"moejax": 2, "pytorch": 2}
    assert found["environment"]["versions"]["torch"] and found["environment"]["date"]
    assert "moejax / pytorch" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_pytorch_the_extra_is_named(root):
    done = run(root, "--config", "configs/dit/dit_moe_paper.py:smoke")
    assert done.returncode == 2 and "pip install 'moejax[torch]'" in done.stderr and "Traceback" not in done.stderr
