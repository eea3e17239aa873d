"""Where downloaded and prepared data lie."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`$MOEJAX_DATA/name` if that variable is set, else `~/.cache/moejax/name` (or under `$XDG_CACHE_HOME`)."""
    if folder := os.environ.get("MOEJAX_DATA"):
        return Path(folder) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moejax" / name
