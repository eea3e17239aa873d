"""Files of installed packages: found without importing, and only the ones that are known."""

import hashlib

import pytest

from moejax.core.errors import SpecError
from moejax.core.installed import InstalledFile


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `carrier` 1.0 whose import would fail, with one file of data."""
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "carrier" / "data.bin").write_bytes(b"weights")
    info = tmp_path / "carrier-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    known = hashlib.sha256(b"weights").hexdigest()
    return InstalledFile(distribution="carrier", version="1.0", path="carrier/data.bin", sha256=known)


def test_finds_the_file(package):
    assert package.installed
    assert package.find().read_bytes() == b"weights"


def test_another_file_is_refused(package):
    package.find().write_bytes(b"other")
    with pytest.raises(SpecError, match=r"has sha256 .*is the one that is known.*installed is 1.0.*carrier==1.0"):
        package.find()


def test_a_missing_file_and_a_missing_package(package):
    package.find().unlink()
    with pytest.raises(SpecError, match="carrier 1.0 has no carrier/data.bin"):
        package.find()
    absent = InstalledFile(distribution="no-such-thing-here", version="2", path="x", sha256="0")
    assert not absent.installed
    with pytest.raises(SpecError, match="pip install --no-deps no-such-thing-here==2"):
        absent.find()
