"""Weights by the released names against the published forward pass, in NumPy and, where it is installed, in PyTorch."""

import argparse
import dataclasses
import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.interop import dit_moe


def neighbour(name):
    """A module beside this file, which is no package."""
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


official = neighbour("official_dit_moe")
dim = official.SIZES["dim"]
CONFIG = {
    "name": "dit",
    **official.SIZES,
    "mlp_dim": 4 * dim,
    "label_dropout": 0.1,
    "learn_variance": True,
    "moe": {
        "router": {
            "name": "top_k",
            "num_experts": 4,
            "num_selected_experts": 2,
            "noise_std": 0.0,
            "capacity_factor": None,
        },
        "experts": {"name": "swiglu", "expert_dim": 4 * dim},
        "shared": {"name": "swiglu", "expert_dim": 2 * dim},
    },
}
MODEL = build_method("models", CONFIG)


def batch(seed=1):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(3, 8, 8, 4)).astype(np.float32)
    return x, np.array([0.0, 417.0, 999.0], np.float32), np.array([2, 0, 5], np.int32)  # 5: no class


def outputs(model, tensors, x, time, label):
    params = jax.tree.map(jnp.asarray, dit_moe.params_from(tensors, model))
    _, state = model.init(jax.random.key(0))
    out = jax.jit(model.apply)(params, state, jnp.asarray(x), jnp.asarray(time), jnp.asarray(label))
    return np.concatenate([out.prediction, out.variance], axis=-1)


@pytest.mark.parametrize("qk_norm, flash_names", [(False, False), (True, True), (True, False)])
def test_equals_the_published_forward_pass(qk_norm, flash_names):
    model = dataclasses.replace(MODEL, qk_norm=qk_norm)
    tensors = official.state_dict(qk_norm=qk_norm, flash_names=flash_names)
    wanted = official.forward(tensors, *batch())
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(outputs(model, tensors, *batch()), wanted, atol=1e-4, rtol=1e-4)


def test_equals_pytorch():
    torch = pytest.importorskip("torch")
    tensors = official.state_dict(3)
    x, time, label = batch(4)
    weights = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    found = neighbour("official_dit_moe_torch").forward(
        weights,
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
        torch.from_numpy(time),
        torch.from_numpy(label).long(),
        depth=MODEL.depth,
        heads=MODEL.num_heads,
        selected=2,
    )
    wanted = found.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(official.forward(tensors, x, time, label), wanted, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(outputs(MODEL, tensors, x, time, label), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_round_trip_is_exact(qk_norm, tmp_path):
    model = dataclasses.replace(MODEL, qk_norm=qk_norm)
    tensors = official.state_dict(qk_norm=qk_norm, flash_names=qk_norm)
    save_file(tensors, tmp_path / "official.safetensors")
    params = dit_moe.load_params(tmp_path / "official.safetensors", model)
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(lambda a: a.shape, params) == jax.tree.map(lambda a: a.shape, shapes)
    dit_moe.save_params(params, model, tmp_path / "ours.safetensors")
    again = load_file(tmp_path / "ours.safetensors")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_own_parameters_come_back(tmp_path):
    params, _ = MODEL.init(jax.random.key(3))
    dit_moe.save_params(params, MODEL, tmp_path / "ours.safetensors")
    again = dit_moe.load_params(tmp_path / "ours.safetensors", MODEL)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_as_a_format(tmp_path):
    save_file(official.state_dict(), tmp_path / "theirs.safetensors")
    foreign = dit_moe.read(tmp_path / "theirs.safetensors", model=CONFIG)
    assert foreign.spec == MODEL
    jax.tree.map(np.testing.assert_array_equal, foreign.params, dit_moe.params_from(official.state_dict(), MODEL))
    dit_moe.write(foreign, tmp_path / "ours.safetensors")
    assert load_file(tmp_path / "ours.safetensors").keys() == official.state_dict().keys()
    with pytest.raises(SpecError, match="give the model's whole config"):
        dit_moe.read(tmp_path / "theirs.safetensors")


def test_the_table_has_every_parameter():
    counted = sum(np.prod(entry.shape) for entry in dit_moe.table(MODEL))
    shapes, _ = jax.eval_shape(MODEL.init, jax.random.key(0))
    assert counted == sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) + 16 * dim


def test_a_dense_dit_goes_both_ways():
    fields = {key: value for key, value in CONFIG.items() if key != "moe"}
    model = build_method("models", fields)
    params, _ = model.init(jax.random.key(1))
    tensors = dit_moe.tensors_from(params, model)
    assert tensors["blocks.2.mlp.fc1.weight"].shape == (4 * dim, dim)
    np.testing.assert_array_equal(
        tensors["blocks.2.mlp.fc2.weight"], params["blocks"]["00-02"]["feed_forward"]["down"].kernel[2].T
    )
    jax.tree.map(np.testing.assert_array_equal, params, dit_moe.params_from(tensors, model))


def test_all_that_does_not_fit_is_named_at_once():
    tensors = official.state_dict()
    tensors["blocks.1.mlp.fc1.weight"] = np.zeros((3, 3), np.float32)
    del tensors["blocks.0.moe.experts.3.up_proj.weight"], tensors["t_embedder.mlp.2.bias"]
    tensors["final_layer.linear.weight"] = tensors["final_layer.linear.weight"][:16]
    with pytest.raises(SpecError) as error:
        dit_moe.params_from(tensors, MODEL)
    message = str(error.value)
    assert "missing: blocks.0.moe.experts.3.up_proj.weight [64, 16]" in message
    assert "missing: t_embedder.mlp.2.bias [16]" in message
    assert "unexpected: blocks.1.mlp.fc1.weight [3, 3]" in message
    assert "misshapen: final_layer.linear.weight is [16, 16], and the model needs [32, 16]" in message


def test_another_table_of_positions_is_refused():
    tensors = official.state_dict()
    tensors["pos_embed"] = tensors["pos_embed"][:, ::-1].copy()
    with pytest.raises(SpecError, match="pos_embed differs by up to"):
        dit_moe.params_from(tensors, MODEL)


def test_models_without_a_released_form_are_refused():
    experts = build_method("experts", {"name": "mlp", "expert_dim": 8})
    model = dataclasses.replace(MODEL, moe=dataclasses.replace(MODEL.moe, experts=experts))
    with pytest.raises(SpecError, match=r"blocks/00/moe/experts: released mixtures hold SwiGLU"):
        dit_moe.table(model)


def test_broken_files(tmp_path):
    with pytest.raises(SpecError, match="does not exist"):
        dit_moe.load_params(tmp_path / "none.safetensors", MODEL)
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00\x00")
    with pytest.raises(SpecError, match=r"3 bytes.*truncated or no safetensors"):
        dit_moe.load_params(tmp_path / "half.safetensors", MODEL)


def test_without_pytorch_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "official.pt").write_bytes(b"")
    with pytest.raises(SpecError, match=r"pip install 'moejax\[torch\]'"):
        dit_moe.load_params(tmp_path / "official.pt", MODEL)


def test_files_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    kinds = {"model": official.state_dict(5), "ema": official.state_dict(6)}
    states = {kind: {n: torch.from_numpy(t) for n, t in tensors.items()} for kind, tensors in kinds.items()}
    torch.save(states["model"], tmp_path / "bare.pt")
    torch.save(states | {"opt": {"state": {}}, "args": argparse.Namespace(image_size=256)}, tmp_path / "both.pt")
    for path, which, kind in (("bare.pt", "ema", "model"), ("both.pt", "ema", "ema"), ("both.pt", "model", "model")):
        params = dit_moe.load_params(tmp_path / path, MODEL, which=which)
        jax.tree.map(np.testing.assert_array_equal, params, dit_moe.params_from(kinds[kind], MODEL))
    dit_moe.save_params(params, MODEL, tmp_path / "ours.pt")
    jax.tree.map(np.testing.assert_array_equal, params, dit_moe.load_params(tmp_path / "ours.pt", MODEL))
    with pytest.raises(SpecError, match="no state dict 'emma'. Did you mean 'ema'"):
        dit_moe.load_params(tmp_path / "both.pt", MODEL, which="emma")
    half = {name: tensor.half() for name, tensor in states["ema"].items()}
    torch.save(half, tmp_path / "half.pt")
    found = dit_moe.tensors_from(dit_moe.load_params(tmp_path / "half.pt", MODEL), MODEL)
    name = "blocks.1.moe.gate.weight"
    np.testing.assert_array_equal(found[name], kinds["ema"][name].astype(np.float16).astype(np.float32))


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": pathlib.PurePosixPath("x")}, tmp_path / "other.pt")
    with pytest.raises(SpecError, match="holds more than weights"):
        dit_moe.load_params(tmp_path / "other.pt", MODEL)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:100])
    with pytest.raises(SpecError, match="truncated"):
        dit_moe.load_params(tmp_path / "cut.pt", MODEL)
