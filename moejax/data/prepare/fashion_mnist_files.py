"""Finds the four files of Fashion-MNIST, or gets them: Debian's package or the official download."""

import hashlib
import logging
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from moejax.core.errors import SpecError
from moejax.data.prepare.cache import cache_folder
from moejax.data.prepare.idx import read_idx

logger = logging.getLogger(__name__)

PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"  # plain http: hence the checksums
# file -> shape, and SHA-256 of the unpacked content (gzip files of one content may differ)
FILES = {
    "train-images-idx3-ubyte.gz": (
        (60000, 28, 28),
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    "train-labels-idx1-ubyte.gz": ((60000,), "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte.gz": (
        (10000, 28, 28),
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    "t10k-labels-idx1-ubyte.gz": ((10000,), "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}


def read_files(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training pictures and labels, test pictures and labels; SpecError names the first file that is not as it must."""
    return tuple(_read(folder / name, *FILES[name]) for name in FILES)  # type: ignore[return-value]


def _read(path: Path, shape: tuple[int, ...], digest: str) -> np.ndarray:
    if not path.exists() and path.with_suffix("").is_file():
        path = path.with_suffix("")
    array = read_idx(path, shape)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    if hashlib.sha256(header + array.tobytes()).hexdigest() != digest:
        raise SpecError(f"{path} has the right size but another content than Fashion-MNIST (SHA-256 differs).")
    return array


def find_folder(folder: str | None) -> Path:
    """The folder of the files: the given one, the system's, or the cache, filled by the first way that works.

    Raises SpecError that lists what was tried and what to run.
    """
    if folder is not None:
        return Path(folder).expanduser()
    if SYSTEM_FOLDER.is_dir():
        return SYSTEM_FOLDER
    cached = cache_folder("fashion_mnist")
    if cached.is_dir():
        return cached
    tried = []
    for get in (_from_debian, _from_web):
        try:
            return _fill(cached, get)
        except (OSError, subprocess.SubprocessError, SpecError) as error:
            tried.append(f"{get.__name__.removeprefix('_')}: {error}")
            logger.info("fashion_mnist %s", tried[-1])
    raise SpecError(
        f"Fashion-MNIST is not on this computer, and getting it failed ({'; '.join(tried)}). Run "
        f"'apt-get install {PACKAGE}', or put {', '.join(FILES)} (from {URL}) into a folder and set data.folder to it; "
        "or use data.name='fashion_mnist_12k', which needs no download."
    )


def _fill(cached: Path, get: Callable[[Path], Path]) -> Path:
    """Runs `get` in a folder of its own; the cache is filled with checked files in one step, or not at all."""
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix="fashion_mnist.partial.") as work:
        found = get(Path(work))
        read_files(found)
        ready = Path(work) / "ready"
        ready.mkdir()
        for name in FILES:
            shutil.move(found / name, ready / name)
        ready.rename(cached)
    return cached


def _from_debian(work: Path) -> Path:
    """`apt-get download` and `dpkg -x`: neither needs root, nothing is installed."""
    try:
        _run(["apt-get", "download", PACKAGE], work)
        package = next(iter(sorted(work.glob(f"{PACKAGE}_*.deb"))))
        _run(["dpkg", "-x", package.name, "unpacked"], work)
    except subprocess.CalledProcessError as error:
        raise SpecError(f"{' '.join(error.cmd)} failed: {(error.stderr or '').strip()[-300:]}") from error
    except StopIteration as error:
        raise SpecError(f"apt-get download left no {PACKAGE}_*.deb.") from error
    return work / "unpacked" / SYSTEM_FOLDER.relative_to("/")


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)


def _from_web(work: Path) -> Path:
    """The four files from the authors' address; `read_files` checks their SHA-256 afterwards."""
    for name in FILES:
        with urllib.request.urlopen(URL + name, timeout=60) as response, (work / name).open("wb") as out:
            shutil.copyfileobj(response, out)
    return work
