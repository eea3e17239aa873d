"""Runs of language and of diffusion models through the commands that runs of pictures go through: train, evaluate, compress, train
further, report, plan."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from moejax.linear.low_rank import LowRank
from moejax.train.checkpoints import load_run
from moejax.train.records import read_rows
from tests.command_lines import typed

COMPRESS = "configs/compress/run.py"
LANGUAGE = "configs/lm/docstrings.py:smoke,model=fine_grained,experts=2"


def succeeds(root, script, *arguments):
    done = typed(root, f"{script}.py", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A few Python files with docstrings, in the place of the standard library."""
    folder = tmp_path_factory.mktemp("sources")
    for i in range(10):
        words = " ".join(f"word{(i * j) % 17}" for j in range(60))
        (folder / f"module{i}.py").write_text(
            f'"""Module {i} says {words}."""\n\n\ndef f():\n    """Says {words} again."""\n'
        )
    return folder


@pytest.mark.slow
def test_a_language_run(tmp_path, root, sources):
    runs = tmp_path / "runs"
    config = [f"--config={LANGUAGE}", f"--config.data.folder={sources}", "--quiet"]
    succeeds(root, "train", *config, f"--workdir={runs / 'whole'}")
    rows = read_rows(runs / "whole" / "metrics.jsonl")
    assert {"train/loss", "train/tokens_per_second", "valid/bits_per_byte", "block_00/load"} <= set(rows[0])

    table = succeeds(root, "evaluate", f"--workdir={runs / 'whole'}")
    found = json.loads((runs / "whole" / "evaluation.json").read_text())
    assert "bits_per_byte" in table and found["data"]["fingerprint"] in table and "I(E;token)" in table
    assert found["scores"]["bits_per_byte"] == pytest.approx(rows[-1]["test/bits_per_byte"], rel=1e-5)
    for layer in found["routing"].values():
        assert sum(layer["realised_load"]) == pytest.approx(1.0, abs=1e-5) and layer["mutual_information"] >= 0

    argument = f"--config={COMPRESS}:smoke,method=svd,budget=0.5"
    succeeds(root, "compress", argument, f"--checkpoint={runs / 'whole'}", f"--workdir={runs / 'small'}")
    report = json.loads((runs / "small" / "compress.json").read_text())
    stages = report["stages"]
    assert stages["before"]["quality"]["agreement"] == 1.0 and stages["after"]["quality"]["kl"] > 0
    assert stages["before"]["quality"]["loss"] == pytest.approx(rows[-1]["test/loss"], rel=1e-5)
    assert report["share"] <= 0.5 and stages["after"]["flops"] < stages["before"]["flops"]

    succeeds(root, "evaluate", f"--workdir={runs / 'small'}")
    small = json.loads((runs / "small" / "evaluation.json").read_text())
    assert small["scores"]["bits_per_byte"] == pytest.approx(stages["after"]["quality"]["bits_per_byte"], rel=1e-5)
    assert small["summary"]["total_params"] == stages["after"]["params"] < found["summary"]["total_params"]

    source = f"--config.train.init_from={runs / 'small'}"
    assert "structure of the compressed run" in succeeds(
        root, "train", *config, f"--workdir={runs / 'further'}", source
    )
    _, params, _, _ = load_run(runs / "further", "last")
    assert isinstance(params["blocks"]["00"]["moe"]["experts"]["up"], LowRank)

    succeeds(root, "report", str(runs / "whole"), "--noevaluate", f"--output={tmp_path / 'page'}")
    assert "bits" in (tmp_path / "page" / "report.html").read_text()


@pytest.mark.slow
def test_weights_of_the_hub_become_a_run(tmp_path, root):
    theirs, run, tokens = root / "tests/interop/recorded/olmoe", tmp_path / "run", tmp_path / "tokens"
    tokens.mkdir()
    draw = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        np.save(tokens / f"{split}.npy", draw.integers(0, 64, 300, np.uint16))
    np.save(tokens / "token_bytes.npy", np.full(64, 3))
    line = ["--from=huggingface", f"--input={theirs}", "--to=run", f"--output={run}"]
    refused = typed(root, "convert.py", *line)
    assert refused.returncode == 2 and "--config configs/lm/tokens.py" in refused.stderr and not run.exists()
    config = ["--config=configs/lm/tokens.py:smoke", f"--config.data.folder={tokens}"]
    succeeds(root, "convert", *line, *config)
    table = succeeds(root, "evaluate", f"--workdir={run}")
    scores = json.loads((run / "evaluation.json").read_text())["scores"]
    assert "I(E;token)" in table and scores["bits_per_byte"] == pytest.approx(scores["loss"] / np.log(2) / 3, rel=1e-6)
    prompt = ["--tokens=54,40,32", "--steps=8"]
    written = [succeeds(root, "generate", f"--checkpoint={folder}", *prompt) for folder in (theirs, run)]
    assert written[0] == written[1] and len(written[0].split(",")) == 8
    back = ["--from=run", f"--input={run}", "--to=huggingface", f"--output={tmp_path / 'back'}"]
    unnamed = typed(root, "convert.py", *back)
    assert unnamed.returncode == 2 and "--write family=FAMILY" in unnamed.stderr
    succeeds(root, "convert", *back, "--write=family=olmoe")
    before, after = (load_file(folder / "model.safetensors") for folder in (theirs, tmp_path / "back"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    misplaced = typed(root, "convert.py", *back[:2], "--to=safetensors", f"--output={tmp_path / 'x'}", *config)
    assert misplaced.returncode == 2 and "--config is of a run that is written" in misplaced.stderr


@pytest.mark.slow
def test_a_diffusion_run(tmp_path, root):
    whole, small = tmp_path / "whole", tmp_path / "small"
    succeeds(root, "train", "--config=configs/dit/garments.py:smoke,model=moe", f"--workdir={whole}", "--quiet")
    (last,) = read_rows(whole / "metrics.jsonl")[-1:]
    argument = f"--config={COMPRESS}:smoke,method=svd_llm,budget=0.5,heal=2,kind=finetune"
    succeeds(root, "compress", argument, f"--checkpoint={whole}", f"--workdir={small}")
    report = json.loads((small / "compress.json").read_text())
    assert report["stages"]["before"]["quality"]["loss"] == pytest.approx(last["test/loss"], rel=1e-4)
    assert report["share"] <= 0.5 and np.isfinite(report["stages"]["healed"]["quality"]["loss"])
    table = succeeds(root, "evaluate", f"--workdir={small}")
    scores = json.loads((small / "evaluation.json").read_text())["scores"]
    assert scores["loss"] == pytest.approx(report["stages"]["healed"]["quality"]["loss"], rel=1e-4)
    assert "loss/quarter_4" in table
    again = ["--config=configs/dit/garments.py:smoke,model=moe", f"--workdir={tmp_path / 'further'}", "--quiet"]
    assert "structure of the compressed run" in succeeds(root, "train", *again, f"--config.train.init_from={small}")


@pytest.mark.slow
def test_a_language_model_is_planned_by_arithmetic_at_least(root):
    done = typed(
        root, "plan.py", "--config=configs/lm/published.py:size=OLMoE-1B-7B,smoke", "--topology=v5e:2x4",
        "--mesh=data=1,fsdp=2,expert=2,model=2", "--mesh=data=8", "--json", "--fast",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    split, whole = json.loads(done.stdout)["meshes"]
    assert split["held"]["parameters"] < 0.5 * whole["held"]["parameters"]
    assert split["fits"] and whole["fits"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/lm/docstrings.py:smoke", "--config.model.vocab_size=100"], "--config.model.vocab_size=257"),
        (["--config=configs/lm/docstrings.py:smoke", "--config.data.sequence_length=999", "--config.data.batch_size=1"], "config.model.max_length=128"),
        (["--config=configs/lm/docstrings.py:smoke,model=topk"], "Did you mean 'top_k'"),
        (["--config=configs/lm/docstrings.py:smoke", "--config.task.name=classification"], "is no field of Classification|takes pictures|no field"),
        (["--config=configs/lm/docstrings.py:smoke", "--config.data.folder=/nowhere"], "is no folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(tmp_path, root, sources, arguments, message):
    folder = [] if any("folder" in argument for argument in arguments) else [f"--config.data.folder={sources}"]
    done = typed(root, "train.py", *arguments, *folder, f"--workdir={tmp_path}", "--quiet")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert any(part in done.stderr for part in message.split("|")), done.stderr[-500:]
