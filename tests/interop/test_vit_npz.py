"""Dense vision transformers in npz files, by both public namings: outputs, round trips, and files that are refused."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.interop import vit_npz, vmoe
from moejax.interop.npz_arrays import read_npz, write_npz

_PATH = pathlib.Path(__file__).with_name("official_vmoe.py")
_SPEC = importlib.util.spec_from_file_location("official_vmoe", _PATH)
official = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(official)

PICTURES = np.random.default_rng(8).normal(size=(2, 8, 8, 3)).astype(np.float32)
CASES = [
    ("vision_transformer", "cls", 6),
    ("big_vision", "cls", None),
    ("big_vision", "map", None),
    ("big_vision", "avg", 8),
]


def logits(foreign):
    params = jax.tree.map(jnp.asarray, foreign.params)
    return np.asarray(jax.jit(foreign.spec.apply)(params, foreign.state, jnp.asarray(PICTURES)).logits)


def save(path, kind, tensors):
    start = "params/" if kind == "big_vision" else ""
    write_npz({f"{start}{name}": tensor for name, tensor in tensors.items()}, path)
    return read_npz(path)


@pytest.mark.parametrize("kind, pool, pre_logits", CASES)
def test_equals_the_published_forward_pass_and_goes_back_exactly(kind, pool, pre_logits, tmp_path):
    tensors = official.weights(kind, pool=pool, pre_logits=pre_logits)
    written = save(tmp_path / "theirs.npz", kind, tensors)
    foreign = vit_npz.read(tmp_path / "theirs.npz")
    assert foreign.model["pooling"] == pool and foreign.model["representation_size"] == pre_logits
    np.testing.assert_allclose(logits(foreign), official.forward(tensors, PICTURES, kind=kind), atol=1e-5, rtol=1e-5)
    vit_npz.write(foreign, tmp_path / "ours.npz", naming=kind)
    again = read_npz(tmp_path / "ours.npz")
    assert again.keys() == written.keys()
    for name, tensor in written.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_scanned_blocks(tmp_path):
    save(tmp_path / "single.npz", "big_vision", official.weights("big_vision", pool="map"))
    single = vit_npz.read(tmp_path / "single.npz")
    vit_npz.write(single, tmp_path / "scanned.npz", scanned="true")
    names = read_npz(tmp_path / "scanned.npz")
    assert names["params/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"].shape == (3, 8, 12)
    assert not any("encoderblock_0" in name for name in names)
    jax.tree.map(np.testing.assert_array_equal, vit_npz.read(tmp_path / "scanned.npz").params, single.params)


def test_a_position_of_the_class_token_goes_into_it(tmp_path):
    tensors = official.weights("vision_transformer")
    save(tmp_path / "old.npz", "vision_transformer", tensors)
    vit_npz.write(vit_npz.read(tmp_path / "old.npz"), tmp_path / "new.npz", naming="big_vision")
    found = read_npz(tmp_path / "new.npz")
    table = tensors["Transformer/posembed_input/pos_embedding"]
    np.testing.assert_array_equal(found["params/cls"], tensors["cls"] + table[:, :1])
    np.testing.assert_array_equal(found["params/pos_embedding"], table[:, 1:])
    wanted = official.forward(tensors, PICTURES, kind="vision_transformer")
    np.testing.assert_allclose(logits(vit_npz.read(tmp_path / "new.npz")), wanted, atol=1e-5, rtol=1e-5)


def test_positions_are_found_wherever_they_were(tmp_path):
    tensors = official.weights("big_vision", pool="avg")
    moved = {n.replace("pos_embedding", "Transformer/pos_embedding"): t for n, t in tensors.items()}
    write_npz({f"opt/target/{name}": tensor for name, tensor in moved.items()}, tmp_path / "old.npz")
    foreign = vit_npz.read(tmp_path / "old.npz")
    assert "the table of positions was called Transformer/pos_embedding" in foreign.notes
    np.testing.assert_array_equal(foreign.params["embedding"]["positions"], tensors["pos_embedding"])


def test_fixed_positions_need_the_size(tmp_path):
    tensors = official.weights("big_vision", pool="avg")
    del tensors["pos_embedding"]
    save(tmp_path / "fixed.npz", "big_vision", tensors)
    with pytest.raises(SpecError, match="fixed sines; give model image_size"):
        vit_npz.read(tmp_path / "fixed.npz")
    assert vit_npz.read(tmp_path / "fixed.npz", model={"image_size": 16}).spec.num_patches == 16


def test_files_that_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{"x": 1}], dtype=object))
    with pytest.raises(SpecError, match="holds Python objects, which are never run"):
        vit_npz.read(tmp_path / "objects.npz")
    save(tmp_path / "whole.npz", "big_vision", official.weights("big_vision"))
    data = (tmp_path / "whole.npz").read_bytes()
    for size in (0, 50, len(data) // 2, len(data) - 30):
        (tmp_path / "cut.npz").write_bytes(data[:size])
        with pytest.raises(SpecError, match=rf"cut.npz \({size} bytes\) is truncated or no npz"):
            vit_npz.read(tmp_path / "cut.npz")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    (tmp_path / "cut.npz").write_bytes(flipped)
    with pytest.raises(SpecError, match="truncated or no npz"):
        vit_npz.read(tmp_path / "cut.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(SpecError, match="holds a single array"):
        vit_npz.read(tmp_path / "single.npy")
    with pytest.raises(SpecError, match="does not exist"):
        vit_npz.read(tmp_path / "none.npz")


def test_experts_and_wrong_namings_are_refused(tmp_path):
    tensors = official.weights(router="dense", moe_layers=(1,))
    write_npz(tensors, tmp_path / "moe.npz")
    foreign = vmoe.read(tmp_path / "moe.npz")
    with pytest.raises(SpecError, match="no MoE layers"):
        vit_npz.write(foreign, tmp_path / "no.npz")
    with pytest.raises(SpecError, match="Did you mean 'big_vision'"):
        vit_npz.write(foreign, tmp_path / "no.npz", naming="bigvision")
