"""Pictures in folders and in archives."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from moejax.core.errors import SpecError
from moejax.data import build
from moejax.data.prepare.archives import extract, inside


def draw(path, count, level, *, size=(10, 8)):
    path.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB" if i % 2 else "L", size, (level,) * 3 if i % 2 else level).save(path / f"{i}.png")


@pytest.fixture
def root(tmp_path):
    for name, level in (("cat", 10), ("dog", 200)):
        draw(tmp_path / "pets" / name, 10, level)
    return tmp_path / "pets"


def config(folder, **fields):
    return {"name": "image_folder", "folder": str(folder), "image_size": 6, "batch_size": 4, **fields}


def test_classes_are_folders_and_fractions_are_held_out(root):
    data = build(config(root, validation_fraction=0.2, test_fraction=0.1))
    assert data.info.class_names == ("cat", "dog")
    assert data.info.split_sizes == {"train": 14, "validation": 4, "test": 2}
    assert data.info.image_shape == (6, 6, 3)
    batch = next(data.train_iterator(seed=0))
    level = np.where(batch["label"] == 0, 10, 200) / 127.5 - 1
    np.testing.assert_allclose(batch["image"], np.broadcast_to(level[:, None, None, None], (4, 6, 6, 3)), atol=1e-6)


def test_splits_are_disjoint_and_do_not_depend_on_where_the_folder_lies(root, tmp_path):
    def names(folder):
        data = build(config(folder))
        rows = {s: {p.relative_to(folder.resolve()) for p, _ in data.split(s)._rows} for s in data.info.split_sizes}
        assert len(set.union(*rows.values())) == sum(map(len, rows.values())) == 20
        return rows

    before = names(root)
    root.rename(tmp_path / "moved")
    assert names(tmp_path / "moved") == before


def test_split_folders(tmp_path):
    for split, count in (("train", 6), ("val", 2), ("test", 4)):
        draw(tmp_path / split / "x", count, 0)
        draw(tmp_path / split / "y", count, 255)
    assert build(config(tmp_path)).info.split_sizes == {"train": 12, "validation": 4, "test": 8}
    draw(tmp_path / "test" / "z", 1, 0)
    with pytest.raises(SpecError, match="classes that training has not: z"):
        build(config(tmp_path))


def test_random_resized_crop_and_memory(root):
    data = build(config(root, augment={"random_resized_crop": {}, "flip": {}}))
    assert next(data.train_iterator(seed=0))["image"].shape == (4, 6, 6, 3)
    held = build(config(root, storage="memory"))
    for split in ("train", "test"):
        np.testing.assert_array_equal(held.examples(split)[0], data.examples(split)[0])
        np.testing.assert_array_equal(held.examples(split)[1], data.examples(split)[1])


@pytest.mark.slow  # a worker process imports everything anew
def test_worker_processes_give_the_same_batches(root):
    alone, helped = (build(config(root, workers=w)).train_iterator(seed=0) for w in (0, 1))
    for _ in range(5):
        want, got = next(alone), next(helped)
        np.testing.assert_array_equal(want["image"], got["image"])
    state = helped.get_state()
    want = next(helped)
    again = build(config(root, workers=1)).train_iterator(seed=0)
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["label"], want["label"])


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives(root, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MOEJAX_DATA", str(tmp_path / "cache"))
    archive = tmp_path / f"pets.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in root.rglob("*.png"):
                file.write(path, f"pets/{path.relative_to(root)}")
    else:
        with tarfile.open(archive, "w") as file:
            file.add(root, "pets")
    assert sum(build(config(archive)).info.split_sizes.values()) == 20
    assert sum(build(config(archive)).info.split_sizes.values()) == 20  # from the cache


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_stay_inside_their_folder(tmp_path, name, kind):
    archive = tmp_path / "bad"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(name, "x")
    else:
        with tarfile.open(archive, "w") as file:
            member = tarfile.TarInfo(name)
            member.size = 1
            file.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(SpecError, match="outside"):
        extract(archive, tmp_path / "out" / "here")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bad", "out"]


def test_links_and_broken_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "links", "w") as file:
        member = tarfile.TarInfo("a")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(member)
    with pytest.raises(SpecError, match="link or a device"):
        extract(tmp_path / "links", tmp_path / "out")
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(SpecError, match="neither a zip nor a tar"):
        extract(tmp_path / "text", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_out_of_the_folder_are_refused(root, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "secret.png")
    (root / "cat" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(SpecError, match="outside"):
        build(config(root))
    with pytest.raises(SpecError, match="outside"):
        inside(root, "../x", what="config")


def test_bad_folders_are_one_clear_error(root, tmp_path):
    with pytest.raises(SpecError, match="does not exist"):
        build(config(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match="holds no pictures"):
        build(config(tmp_path / "empty"))
    with pytest.raises(SpecError, match="image_size"):
        build(config(root, image_size=None))
    with pytest.raises(SpecError, match="lacks 'folder'"):
        build({"name": "image_folder"})
    with pytest.raises(SpecError, match="fractions"):
        build(config(root, test_fraction=1.0))


def test_a_truncated_picture_is_named(root):
    for path in (root / "cat").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(SpecError, match=r"\.png \(20 bytes\) is no picture, or truncated"):
        build(config(root)).examples("train")
