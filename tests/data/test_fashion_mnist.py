"""Fashion-MNIST's files: found, fetched, checked. The four files are stood in for by small ones."""

import gzip
import hashlib
import io
import subprocess
from pathlib import Path

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.data import build
from moejax.data.prepare import fashion_mnist_files as files
from moejax.data.prepare.idx import read_idx


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of four small files that the reader takes for the real ones; nothing else is on this computer."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "given"
    folder.mkdir()
    table = {}
    for name, (shape, _) in files.FILES.items():
        array = rng.integers(0, 10, (60 if shape[0] == 60000 else 20, *shape[1:]), dtype=np.uint8)
        data = idx(array)
        (folder / name).write_bytes(gzip.compress(data))
        table[name] = (array.shape, hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(files, "FILES", table)
    monkeypatch.setattr(files, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setenv("MOEJAX_DATA", str(tmp_path / "cache"))
    return folder


CONFIG = {"name": "fashion_mnist", "validation_size": 10, "batch_size": 10}


def test_a_given_folder(small):
    data = build(CONFIG | {"folder": str(small)})
    assert data.info.split_sizes == {"train": 50, "validation": 10, "test": 20}
    assert data.info.image_shape == (28, 28, 3) and data.info.class_names[9] == "Ankle boot"


def test_unpacked_files_are_read_too(small):
    for path in list(small.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert build(CONFIG | {"folder": str(small)}).info.split_sizes["train"] == 50


def test_the_systems_folder_comes_before_the_cache(small, tmp_path):
    small.rename(tmp_path / "system")
    assert files.find_folder(None) == tmp_path / "system"


def forbid(*_):
    raise AssertionError("must not be called")


def test_debian_package_without_root_then_the_cache(small, tmp_path, monkeypatch):
    calls = []

    def run(command, *, cwd, **_):
        calls.append(command)
        if command[0] == "apt-get":
            (Path(cwd) / f"{files.PACKAGE}_1_all.deb").touch()
        else:
            target = Path(cwd) / command[3] / files.SYSTEM_FOLDER.relative_to("/")
            target.parent.mkdir(parents=True)
            small.rename(target)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(files.urllib.request, "urlopen", forbid)
    assert build(CONFIG).info.split_sizes["train"] == 50
    assert calls == [
        ["apt-get", "download", "dataset-fashion-mnist"],
        ["dpkg", "-x", "dataset-fashion-mnist_1_all.deb", "unpacked"],
    ]
    assert sorted(p.name for p in (tmp_path / "cache" / "fashion_mnist").iterdir()) == sorted(files.FILES)
    monkeypatch.setattr(subprocess, "run", forbid)
    assert build(CONFIG).info.split_sizes["train"] == 50  # from the cache


def no_apt(command, **_):
    raise FileNotFoundError(f"no {command[0]}")


def test_download_where_there_is_no_apt(small, monkeypatch):
    monkeypatch.setattr(subprocess, "run", no_apt)
    monkeypatch.setattr(
        files.urllib.request, "urlopen", lambda url, timeout: io.BytesIO((small / url.rsplit("/")[-1]).read_bytes())
    )
    assert build(CONFIG).info.split_sizes["test"] == 20


def test_a_forged_download_is_refused_and_leaves_no_cache(small, tmp_path, monkeypatch):
    forged = {n: gzip.compress(idx(np.zeros(shape, np.uint8))) for n, (shape, _) in files.FILES.items()}
    monkeypatch.setattr(subprocess, "run", no_apt)
    monkeypatch.setattr(files.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(forged[url.rsplit("/")[-1]]))
    with pytest.raises(SpecError, match=r"SHA-256 differs.*apt-get install dataset-fashion-mnist.*fashion_mnist_12k"):
        build(CONFIG)
    assert list((tmp_path / "cache").iterdir()) == []


def test_nothing_works_says_what_to_run(small, monkeypatch):
    monkeypatch.setattr(subprocess, "run", no_apt)

    def offline(url, timeout):
        raise OSError("no network")

    monkeypatch.setattr(files.urllib.request, "urlopen", offline)
    with pytest.raises(SpecError, match=r"no apt-get.*no network.*apt-get install"):
        build(CONFIG)


def test_empty_folder(small, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"train-images-idx3-ubyte.gz is missing; expected .* 47056 bytes"):
        build(CONFIG | {"folder": str(tmp_path / "empty")})  # 16 + 60 * 784 = 47,056


def test_truncated_gzip(small):
    path = small / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SpecError, match=r"train-images.* truncated or corrupt.*expected 47056 bytes.*found 1000 bytes"):
        build(CONFIG | {"folder": str(small)})


def test_other_sizes(small):
    (small / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(7, np.uint8))))
    with pytest.raises(SpecError, match=r"expected shape \(20,\) in 28 bytes.*found shape \(7,\) in 15"):
        build(CONFIG | {"folder": str(small)})


def test_idx_refuses_what_is_no_idx(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    with pytest.raises(SpecError, match="no idx file"):
        read_idx(tmp_path / "a", (3,))
    (tmp_path / "b").write_bytes(idx(np.zeros(3, np.uint8)) + b"more")
    with pytest.raises(SpecError, match="truncated or another"):
        read_idx(tmp_path / "b", (3,))
    (tmp_path / "c").write_bytes(idx(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    assert read_idx(tmp_path / "c", (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_validation_size_must_leave_pictures(small):
    with pytest.raises(SpecError, match="leaves none of 60"):
        build(CONFIG | {"folder": str(small), "validation_size": 60})
