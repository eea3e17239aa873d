"""Runs whose parameters have another structure than the model gives them: written, loaded, started from."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress import compress
from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.core.tree import leaf_names
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from moejax.train.checkpoints import load_run, read_run
from moejax.train.compressed_run import write_run
from moejax.train.initialise import initialise_from
from moejax.train.restructured import Restructured, build_task, described, structure_from


@pytest.fixture(scope="module")
def config(root):
    path = root / "configs/vit/patchwork.py"
    spec = importlib.util.spec_from_file_location("patchwork", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return json.loads(module.get_config("smoke,model=vmoe,experts=2").to_json())


@pytest.fixture(scope="module")
def trained(config):
    """Parameters and state as a run would have them, one tree per layer."""
    params, state = build_task(config).init(jax.random.key(0))
    return split_segments(params), split_segments(state)


@pytest.fixture(scope="module")
def smaller(trained):
    return compress(trained[0], method="svd", budget=0.5, only="moe/experts/(up|down)$|feed_forward/(up|down)$").params


@pytest.fixture
def folder(tmp_path, config, smaller, trained):
    write_run(tmp_path / "run", config, smaller, trained[1], step=7, row={"test/accuracy": 0.5})
    return tmp_path / "run"


def images(count=8):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, 32, 32, 3)), jnp.float32)


@pytest.mark.slow
def test_a_compressed_run_is_loaded_as_it_was(folder, config, smaller, trained):
    loaded_config, params, state, step = load_run(folder)
    assert step == 7 and loaded_config["model"] == config["model"]
    assert isinstance(params["blocks"]["01"]["moe"]["experts"]["up"], LowRank)
    assert jax.tree.structure(params) == jax.tree.structure(smaller)
    jax.tree.map(np.testing.assert_array_equal, params, smaller)
    model = build_task(loaded_config).model
    one, two = (model.apply(p, s, images()).logits for p, s in ((params, state), (smaller, trained[1])))
    np.testing.assert_array_equal(one, two)


def test_the_files_of_a_run_are_there(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["structure"]["blocks"]["01"]["moe"]["experts"]["up"]["$leaf"] == "low_rank"
    assert json.loads((folder / "metrics.jsonl").read_text()) == {"step": 7, "test/accuracy": 0.5}
    with pytest.raises(SpecError, match="already holds a run"):
        write_run(folder, config, {}, {}, step=7, row={})


@pytest.mark.slow
def test_uncompressed_and_split_parameters_compute_the_same(config):
    task = build_task(config)
    params, state = task.init(jax.random.key(1))
    one = task.model.apply(params, state, images()).logits
    two = task.model.apply(split_segments(params), split_segments(state), images()).logits
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_the_task_draws_what_the_model_has_and_what_only_the_structure_has(config, smaller):
    task = build_task({**config, "structure": described(smaller)})
    assert isinstance(task, Restructured)
    params, state = task.init(jax.random.key(3))
    assert described(params) == described(smaller)
    assert leaf_names(params) == leaf_names(smaller)
    assert set(state["blocks"]) == {"00", "01"}
    up = params["blocks"]["01"]["moe"]["experts"]["up"]
    assert float(jnp.std(up.u)) == pytest.approx(up.u.shape[-2] ** -0.5, rel=0.3)
    assert not params["head"].kernel.any(), "the head begins with zeros, as in the model"
    loss, _ = task.loss(params, state, {"image": images(), "label": jnp.zeros(8, jnp.int32)}, jax.random.key(0))
    assert jnp.isfinite(loss)


def test_training_from_a_compressed_run_takes_its_structure_and_its_own_head(folder, config):
    other = {**config, "model": {**config["model"], "num_classes": 5}}
    structure = structure_from(folder, other)
    task = build_task({**other, "structure": structure})
    params, state = task.init(jax.random.key(0))
    assert params["head"].kernel.shape == (16, 5)
    loaded, _ = initialise_from(params, state, read_run(folder, "last"), reinitialise=("^head",))
    _, source, _, _ = load_run(folder)
    up = loaded["blocks"]["01"]["moe"]["experts"]["up"]
    np.testing.assert_array_equal(up.u, source["blocks"]["01"]["moe"]["experts"]["up"].u)
    assert structure_from(folder, config) == described(source)


def test_an_uncompressed_run_has_no_structure(tmp_path, config):
    assert structure_from(tmp_path, config) is None
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert structure_from(tmp_path, config) is None
    assert not isinstance(build_task({**config, "structure": None}), Restructured)


def test_the_structure_of_another_model_is_refused(config):
    foreign = {"layers": {"00": {"w": Dense(jnp.ones((2, 2)))}}}
    with pytest.raises(SpecError, match="names /layers, which the model does not have"):
        build_task({**config, "structure": described(foreign)}).init(jax.random.key(0))
