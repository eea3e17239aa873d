"""From a trained run to a compressed one and on, by the command lines that users type."""

import importlib.util
import json

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method, build_spec, methods
from moejax.evals.compression_sweep import Sweep
from moejax.linear.low_rank import LowRank
from moejax.train.checkpoints import load_run
from moejax.train.heal import Heal
from tests.command_lines import typed

CONFIG = "configs/compress/run.py"


def command(root, script, *arguments):
    return typed(root, f"{script}.py", *arguments)


def succeeds(root, script, *arguments):
    done = command(root, script, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def get_config(root):
    spec = importlib.util.spec_from_file_location("compress_run", root / CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


@pytest.mark.parametrize(
    "argument", ["", "smoke", "method=dobi,budget=0.25,heal=20,kind=finetune,methods=svd/mc_smoe,seeds=2"]
)
def test_the_config_builds(get_config, argument):
    config = get_config(argument).to_dict()
    build_method("compress", config["method"])
    assert build_spec(Heal, config["heal"]).steps == (20 if "heal" in argument else 0)
    sweep = build_spec(Sweep, config["sweep"])
    if "methods" in argument:
        assert sweep.methods == ("svd", "mc_smoe") and sweep.seeds == (0, 1)
    if argument == "smoke":
        assert config["examples"] == 32 and len(sweep.methods) == 2 and sweep.seeds == (0,)
    if argument == "":
        assert sweep.budgets == (0.9, 0.75, 0.5, 0.25) and sweep.seeds == (0, 1, 2) and sweep.methods == ()
        assert config["method"] in methods("compress")


def test_a_misspelt_argument_is_named(get_config):
    with pytest.raises(SpecError, match="Did you mean 'budget'"):
        get_config("budgets=0.5")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([f"--config={CONFIG}"], 2, "--checkpoint is needed"),
        ([f"--config={CONFIG}", "--checkpoint=nowhere"], 1, "holds no checkpoints"),
        ([f"--config={CONFIG}:subject=minilm"], 2, "add --sweep"),
        ([f"--config={CONFIG}:subject=bert"], 2, "Allowed: minilm, run"),
    ],
    ids=["checkpoint", "folder", "sweep", "subject"],
)
def test_wrong_command_lines(tmp_path, root, arguments, code, message):
    done = command(root, "compress", f"--workdir={tmp_path / 'out'}", *arguments)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1].startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_is_compressed_evaluated_reported_and_trained_further(tmp_path, root):
    runs = tmp_path / "runs"
    tiny = "--config=configs/vit/patchwork.py:smoke,model=vmoe,experts=2"
    succeeds(root, "train", tiny, f"--workdir={runs / 'vmoe'}", "--quiet")
    argument = f"--config={CONFIG}:smoke,method=svd_llm+refit,budget=0.5,heal=3"
    out = succeeds(root, "compress", argument, f"--checkpoint={runs / 'vmoe'}", f"--workdir={runs / 'small'}")
    assert "| healed |" in out and "moe/experts/up" in out

    config, params, _, step = load_run(runs / "small", "last")
    up = params["blocks"]["01"]["moe"]["experts"]["up"]
    assert isinstance(up, LowRank) and step == 2
    report = json.loads((runs / "small" / "compress.json").read_text())
    before, after = report["stages"]["before"], report["stages"]["after"]
    assert report["share"] <= 0.5 and after["params"] < before["params"] and after["flops"] < before["flops"]
    kernels = [w for name, w in report["weights"].items() if name.endswith("experts/up")]
    assert 0 < kernels[0]["plain_error"] < 1 and report["healing"]["steps"] == 3
    assert after["difference"] < 1e-3, "factors and their dense kernels compute the same"

    table = succeeds(root, "evaluate", f"--workdir={runs / 'small'}", "--shots=0")
    assert f"{after['params']:,} parameters" in table
    evaluation = json.loads((runs / "small" / "evaluation.json").read_text())
    assert evaluation["accuracy"]["all"]["accuracy"] == pytest.approx(
        report["stages"]["healed"]["quality"]["accuracy"], abs=1e-6
    )
    assert evaluation["summary"]["total_params"] == after["params"]

    source = f"--config.train.init_from={runs / 'small'}"
    further = succeeds(root, "train", tiny, f"--workdir={runs / 'further'}", "--quiet", source)
    assert "structure of the compressed run" in further
    _, trained, _, _ = load_run(runs / "further", "last")
    assert isinstance(trained["blocks"]["01"]["moe"]["experts"]["up"], LowRank)
    assert trained["blocks"]["01"]["moe"]["experts"]["up"].u.shape == up.u.shape

    succeeds(root, "report", f"--workdir={runs}")
    assert (runs / "report" / "report.html").stat().st_size > 10_000

    sweep = [f"--config={CONFIG}:smoke", f"--checkpoint={runs / 'vmoe'}", f"--workdir={tmp_path / 'sweep'}", "--sweep"]
    assert "4 cells" in succeeds(root, "compress", *sweep)
    result = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert {cell["method"] for cell in result["cells"]} == {"svd", "svd_llm"}
    assert np.isfinite([cell["data_error"] for cell in result["cells"]]).all()
    again = succeeds(root, "compress", *sweep)
    assert "seed 0" not in again, "nothing was computed again"
