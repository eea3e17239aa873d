"""What a run was started with: versions, devices, commit, seed and the exact command line."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

from moejax.train.disk import write_whole

FILE = "environment.json"
PACKAGES = ("moejax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def record_start(workdir: pathlib.Path, *, step: int, seed: int, mesh: Mapping[str, int]) -> None:
    """Adds this start, which goes on from `step`, to environment.json: a list, as a run may move between machines.

    A file that cannot be read is begun anew. Raises DiskError. Source: ours.
    """
    path = workdir / FILE
    try:
        starts = list(json.loads(path.read_text())["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        starts = []
    starts.append({"step": step, "seed": seed, "mesh": dict(mesh), **surroundings()})
    write_whole(path, json.dumps({"starts": starts}, indent=1) + "\n")


def surroundings() -> dict[str, Any]:
    """Date (UTC), command, folder, host, versions, device, number of devices and processes, git (None outside a checkout)."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "folder": os.getcwd(),
        "host": platform.node(),
        "versions": versions,
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "git": commit(pathlib.Path(__file__).parent),
    }


def command_line() -> str:
    """The command of this process as a shell takes it, to be repeated in the same folder."""
    program = ["python", *sys.argv] if sys.argv[0].endswith(".py") else list(sys.argv)
    return shlex.join(program)


def commit(folder: pathlib.Path) -> dict[str, Any] | None:
    """The checkout that holds our code: its commit, and whether tracked files differ from it; None where there is none."""

    def git(*arguments: str) -> str:
        line = ["git", "-C", str(folder), *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # An installed package may lie below somebody else's checkout.
        if not (pathlib.Path(git("rev-parse", "--show-toplevel")) / "moejax" / "train").samefile(folder):
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
