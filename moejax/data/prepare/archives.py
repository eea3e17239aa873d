"""Unpacking zip and tar archives without letting them write outside their folder."""

import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from moejax.core.errors import SpecError


def extract(archive: Path, folder: Path) -> Path:
    """Unpacks `archive` (.zip, .tar, .tar.gz ...) into `folder`, all or nothing; regular files and folders only.

    Raises SpecError for an absolute path, a path with '..', a link or a device in the archive, and for a broken archive.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial."))
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, partial)
        elif tarfile.is_tarfile(archive):
            _extract_tar(archive, partial)
        else:
            raise SpecError(f"{archive} ({archive.stat().st_size} bytes) is neither a zip nor a tar archive.")
        partial.rename(folder)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise SpecError(f"{archive} ({archive.stat().st_size} bytes) is truncated or corrupt ({error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def inside(folder: Path, name: str, *, what: str) -> Path:
    """`folder / name`; SpecError when that lies outside the folder, links followed."""
    relative = PurePosixPath(name.replace("\\", "/"))
    target = (folder / relative).resolve()
    if relative.is_absolute() or ".." in relative.parts or not target.is_relative_to(folder.resolve()):
        raise SpecError(f"{what} names {name!r}, which lies outside {folder}.")
    return target


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            target = inside(folder, member.filename, what=str(archive))
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open(member) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)


def _extract_tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as file:
        for member in file:
            target = inside(folder, member.name, what=str(archive))
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            source = file.extractfile(member) if member.isreg() else None
            if source is None:
                raise SpecError(f"{archive} holds {member.name!r}, which is a link or a device; it is not unpacked.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
