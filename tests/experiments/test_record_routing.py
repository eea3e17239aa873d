"""Routing recorded from a run, by the command lines that users type."""

import json

import numpy as np
import pytest

from moejax.evals.routing_traces import load
from tests.command_lines import typed


@pytest.mark.slow
def test_from_a_run_to_a_file(root, tmp_path):
    run, out = tmp_path / "run", tmp_path / "routing.npz"
    config = root / "configs/vit/patchwork.py:model=vmoe,smoke"
    done = typed(root, "train.py", f"--config={config}", f"--workdir={run}")
    assert done.returncode == 0, done.stderr[-2000:]
    done = typed(root, "record_routing.py", f"--workdir={run}", f"--output={out}", "--pictures=5")
    assert done.returncode == 0, done.stderr[-2000:]
    trace, model = load(out), json.loads((run / "config.json").read_text())["model"]
    tokens = (model["image_size"] // model["patch_size"]) ** 2
    assert trace.tokens_per_sequence == tokens and trace.num_experts == model["moe"]["router"]["num_experts"]
    assert trace.choices.shape == (len(trace.blocks), 5 * tokens, 2) and "step 2" in trace.source
    assert np.all(trace.choices[..., 0] != trace.choices[..., 1])  # a token's experts differ
    assert np.all(np.diff(trace.gates, axis=-1) <= 0) and "times the mean load" in done.stdout


@pytest.mark.slow
def test_a_folder_without_a_run(root, tmp_path):
    done = typed(root, "record_routing.py", f"--workdir={tmp_path}", f"--output={tmp_path / 'x.npz'}")
    assert done.returncode == 1 and "Traceback" not in done.stderr
