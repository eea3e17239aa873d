"""Seals: every file of a checkpoint, every kind of damage, and folders that only pretend to be another step's."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.train.checkpoints import Checkpoints
from moejax.train.seals import SEAL, broken, is_sealed, seal

REST = {"progress": {}, "config": {}}


def value(number):
    return {"params": {"kernel": jnp.arange(12.0).reshape(3, 4) + number}, "step": jnp.int32(number)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "c"
    with Checkpoints(folder, keep_last=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, value(step), **REST, wait=True)
    return folder


def restored(folder):
    with Checkpoints(folder, read_only=True) as checkpoints:
        found = checkpoints.restore()
    np.testing.assert_array_equal(found.leaves["params/kernel"], value(found.step)["params"]["kernel"])
    return found.step


def test_a_bit_in_any_file_is_seen(saved, tmp_path):
    names = sorted(path.relative_to(saved / "3") for path in (saved / "3").rglob("*") if path.is_file())
    assert {"meta/metadata", "_CHECKPOINT_METADATA", SEAL, "state/manifest.ocdbt"} <= {
        name.as_posix() for name in names
    }
    draw = np.random.default_rng(0)
    for number, name in enumerate(names):
        copy = tmp_path / str(number)
        shutil.copytree(saved, copy)
        data = bytearray((copy / "3" / name).read_bytes())
        bit = int(draw.integers(8 * len(data)))
        data[bit // 8] ^= 1 << bit % 8
        (copy / "3" / name).write_bytes(bytes(data))
        assert broken(copy / "3") is not None, (name, bit)
        if number % 4 == 0:  # each takes a while to open
            assert restored(copy) == 2, (name, bit)


def test_missing_cut_and_exchanged_files(saved, tmp_path):
    assert broken(saved / "3") is None and is_sealed(saved / "3")
    for number, name in enumerate(("meta/metadata", "state/_METADATA", SEAL)):
        copy = tmp_path / f"missing{number}"
        shutil.copytree(saved, copy)
        (copy / "3" / name).unlink()
        assert restored(copy) == 2
    copy = tmp_path / "cut"
    shutil.copytree(saved, copy)
    (copy / "3" / "state" / "manifest.ocdbt").write_bytes((saved / "3/state/manifest.ocdbt").read_bytes()[:-1])
    assert broken(copy / "3") == "state/manifest.ocdbt is not the file that was written"
    copy = tmp_path / "exchanged"
    shutil.copytree(saved, copy)
    for one, other in ((2, 3), (3, 2)):
        shutil.copy(saved / str(one) / "meta/metadata", copy / str(other) / "meta/metadata")
    assert restored(copy) == 1


def test_whole_folders_that_have_changed_places(saved, tmp_path):
    copy = tmp_path / "c"
    shutil.copytree(saved, copy)
    shutil.rmtree(copy / "3")
    (copy / "2").rename(copy / "7")
    assert broken(copy / "7") == "its seal is that of step 2"
    assert restored(copy) == 1
    with Checkpoints(copy, read_only=True) as checkpoints:
        assert checkpoints.restore(which=7) is None and checkpoints.steps() == [1]


def test_a_reader_changes_nothing(saved, tmp_path):
    copy = tmp_path / "run" / "checkpoints"
    shutil.copytree(saved, copy)
    (copy / "3" / "meta" / "metadata").write_text("{")
    shutil.copytree(copy / "2", copy / "4.orbax-checkpoint-tmp")  # another process is writing
    before = sorted(copy.rglob("*"))
    assert restored(copy) == 2
    assert sorted(copy.rglob("*")) == before and not (tmp_path / "run" / "damaged_checkpoints").exists()


def test_large_files_are_sealed_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr("moejax.train.seals.LARGEST_HASHED", 4)
    folder = tmp_path / "5"
    folder.mkdir()
    (folder / "large").write_bytes(b"12345")
    (folder / "small").write_bytes(b"1234")
    seal(folder, 5)
    (folder / "large").write_bytes(b"54321")  # its arrays have fingerprints
    assert broken(folder) is None
    (folder / "large").write_bytes(b"123456")
    assert broken(folder) == "large is not the file that was written"
    (folder / "large").write_bytes(b"12345")
    (folder / "small").write_bytes(b"4321")
    assert broken(folder, ("large",)) is None and broken(folder) == "small is not the file that was written"


def test_a_checkpoint_that_is_half_removed_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("moejax.train.checkpoints.shutil.rmtree", lambda *_, **__: None)  # killed before it is deleted
    with Checkpoints(tmp_path / "c", keep_last=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, value(step), **REST, wait=True)
        assert checkpoints.steps() == [2]
    assert [path.name for path in (tmp_path / "c" / "removed").iterdir()] == ["1"]
    monkeypatch.undo()
    with Checkpoints(tmp_path / "c", keep_last=1) as checkpoints:
        assert checkpoints.steps() == [2] and not list((tmp_path / "c" / "removed").iterdir())
