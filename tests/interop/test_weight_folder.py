"""Folders of safetensors: shards and their index, and all the ways in which they can be broken."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moejax.core.errors import SpecError
from moejax.interop.weight_folder import open_tensors, read_config, write_folder

TENSORS = {name: np.full((5,), i, np.float32) for i, name in enumerate("abcd")}


def write(folder, shard_bytes=10**6):
    return write_folder(folder, {"model_type": "some"}, TENSORS.items(), shard_bytes=shard_bytes)


def edit_index(folder, **weight_map):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= weight_map
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(("shard_bytes", "shards"), [(10**6, 1), (40, 2), (1, 4)])
def test_what_is_written_is_read(tmp_path, shard_bytes, shards):
    files = write(tmp_path / "new" / "model", shard_bytes)
    assert sum(path.suffix == ".safetensors" for path in files) == shards
    assert {path.name for path in files} == {path.name for path in (tmp_path / "new" / "model").iterdir()}
    with open_tensors(tmp_path / "new" / "model") as found:
        assert {name: tensor.shape for name, tensor in found.items()} == dict.fromkeys("abcd", (5,))
        for name, tensor in TENSORS.items():
            np.testing.assert_array_equal(np.asarray(found[name]), tensor)
    assert read_config(tmp_path / "new" / "model") == {"model_type": "some"}


def test_the_index_is_the_published_one(tmp_path):
    write(tmp_path, 40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {
        "metadata": {"total_size": 80},
        "weight_map": {"a": first, "b": first, "c": second, "d": second},
    }
    assert set(load_file(tmp_path / second)) == {"c", "d"}


def test_views_are_written_as_they_look(tmp_path):
    turned = np.arange(6, dtype=np.float32).reshape(2, 3).T
    write_folder(tmp_path, {}, [("turned", turned)])
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["turned"], turned)


@pytest.mark.parametrize(
    "file", ["../other.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "x.bin", "..\\x.safetensors"]
)
def test_an_index_must_stay_inside(tmp_path, file):
    write(tmp_path / "model", 40)
    save_file(TENSORS, tmp_path / "other.safetensors")
    edit_index(tmp_path / "model", a=file)
    with (
        pytest.raises(SpecError, match="only safetensors files inside of the folder are read"),
        open_tensors(tmp_path / "model"),
    ):
        pass


def test_broken_folders(tmp_path):
    def refused(folder, message):
        with pytest.raises(SpecError, match=message), open_tensors(folder):
            pass

    refused(tmp_path / "nowhere", "does not exist; give a folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "holds neither model.safetensors nor")
    with pytest.raises(SpecError, match="has no config.json"):
        read_config(empty)
    (empty / "config.json").write_text("{")
    with pytest.raises(SpecError, match="is no JSON"):
        read_config(empty)
    (empty / "config.json").write_text("[1]")
    with pytest.raises(SpecError, match="holds a list, not an object"):
        read_config(empty)
    (empty / "pytorch_model.bin").write_bytes(b"x")
    refused(empty, r"pytorch_model.bin, a file of PyTorch, which may run code .* safe_serialization=True")
    (empty / "model.safetensors").write_bytes(b"x" * 100)
    refused(empty, r"model.safetensors \(100 bytes\) is truncated or no safetensors file")
    refused(empty / "model.safetensors", "is a file; give a folder")


def test_broken_shards(tmp_path):
    def refused(message):
        with pytest.raises(SpecError, match=message), open_tensors(tmp_path):
            pass

    write(tmp_path, 40)
    second = tmp_path / "model-00002-of-00002.safetensors"
    edit_index(tmp_path, e=second.name)
    refused("lacks 'e' .and 0 more., which model.safetensors.index.json says is there")
    whole = second.read_bytes()
    second.write_bytes(whole[:-3])
    refused("is truncated or no safetensors file")
    second.unlink()
    refused(r"00002-of-00002.safetensors is missing, .* is the download complete")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    refused("has no 'weight_map'")


def test_nothing_is_overwritten(tmp_path):
    write(tmp_path)
    with pytest.raises(SpecError, match="holds model.safetensors already; choose another folder"):
        write(tmp_path)
    with pytest.raises(SpecError, match="shard_bytes=0 must be at least 1"):
        write(tmp_path / "new", 0)
