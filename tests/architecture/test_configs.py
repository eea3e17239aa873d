"""Every config file is data with a record, builds, and has a smoke variant of two small steps."""

import ast
import importlib.util
import math
import pathlib

import jax
import pytest

from moejax.core.errors import SpecError
from moejax.core.spec import build_method, build_spec, methods
from moejax.train.loop import Train
from moejax.train.optimizers import Optimizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.py"))
TRAINING = [
    file for file in FILES if not file.startswith(("configs/compress/", "configs/theory/"))
]  # compress: tests/experiments
STUDIES = [file for file in FILES if file.startswith("configs/theory/")]
PARTS = {"name", "seed", "model", "task", "data", "optimizer", "train"}


def load(path):
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(f"configs.{file.parent.name}.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(config):
    """The specs of a config; its data are not opened, since some must be fetched first."""
    config = config.to_dict()
    task = build_method("tasks", {**config["task"], "model": config["model"]}, path="config.task")
    build_spec(Optimizer, config["optimizer"], path="config.optimizer")
    return task, build_spec(Train, config["train"], path="config.train")


def test_the_named_configs_exist():
    assert {pathlib.Path(file).stem for file in FILES} >= {"patchwork", "vmoe_paper", "soft_moe_paper", "finetune"}


@pytest.mark.parametrize("file", FILES)
def test_the_docstring_is_the_record(file):
    text = ast.get_docstring(ast.parse((ROOT / file).read_text("utf-8"))) or ""
    assert f"--config {file}" in text, "the command that runs it"
    assert "Arguments:" in text
    assert "Record:" in text, "device, time, measured result, seeds and date, or that it has not been run"


@pytest.mark.parametrize("file", TRAINING)
def test_it_builds(file):
    config = load(file).get_config()
    assert set(config) == PARTS
    task, _ = build(config)
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) > 0


@pytest.mark.parametrize("file", TRAINING)
def test_its_smoke_variant_is_small(file):
    config = load(file).get_config("smoke")
    task, train = build(config)
    assert train.steps == 2
    params, _ = jax.eval_shape(task.init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) < 1_000_000


@pytest.mark.parametrize("file", STUDIES)
def test_a_study_builds_in_full_and_small(file):
    full, small = (build_method("theory.studies", load(file).get_config(arg).to_dict()) for arg in ("", "smoke"))
    assert pathlib.Path(file).stem == load(file).get_config().name and type(full) is type(small)
    assert len(small.parts) <= len(full.parts) and small != full


def test_every_study_has_a_config():
    assert {pathlib.Path(file).stem for file in STUDIES} == set(methods("theory.studies"))


@pytest.mark.parametrize("file", FILES)
def test_a_misspelt_argument_is_named(file):
    with pytest.raises(SpecError, match="smoke"):
        load(file).get_config("smokey")
