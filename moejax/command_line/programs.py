"""The mains of experiments/ as commands. The folder is the registry: a file with a `__main__` part is a command.

Files are read by `ast` and not run, so that help and completion cost no import of jax.
"""

import ast
import dataclasses
import functools
import re
from pathlib import Path

import moejax
from moejax.command_line.sources import first_sentence, parsed
from moejax.core.errors import SpecError

# Those that a newcomer looks for come first; whatever else the folder has follows by name.
FIRST = (
    "train", "evaluate", "report", "summary", "plan", "compress", "sample", "score", "generate", "convert", "export", "theory",
    "demo", "demo-diffusion",
)  # fmt: skip

# Commands that are no mains.
OWN = {
    "list": "Lists routers, experts, configs and whatever else can be named, one line each.",
    "completion": "Prints the script that completes `moejax` in bash, zsh or fish.",
    "help": "Says what a command takes: the same as `moejax COMMAND --help`.",
}


@dataclasses.dataclass(frozen=True)
class Program:
    """One main. name: as it is typed, `place-experts`. path: of its file. text: its docstring, with commands as typed."""

    name: str
    path: Path
    text: str

    @property
    def help(self) -> str:
        """The first sentence of the docstring."""
        return first_sentence(self.text)


@functools.cache
def root() -> Path:
    """The folder above `experiments` and `configs`: inside the package where it was installed, else the repository's.

    Raises SpecError where neither is there. Source: ours.
    """
    package = Path(moejax.__file__).resolve().parent
    for folder in (package / "programs", package.parent):
        if (folder / "experiments" / "train.py").is_file():
            return folder
    raise SpecError(f"neither {package / 'programs'} nor {package.parent} has experiments/; install moejax again.")


def programs() -> dict[str, Program]:
    """Every command of the folder, those of `FIRST` before the others."""
    files = sorted((root() / "experiments").glob("*.py"))
    found = {p.name: p for p in map(_read, files) if p is not None}
    first = [name for name in FIRST if name in found]
    return {name: found[name] for name in (*first, *sorted(found.keys() - set(first)))}


def program(name: str) -> Program | None:
    """The command `name`, its file alone being read; None where there is none."""
    path = root() / "experiments" / f"{name.replace('-', '_')}.py"
    return _read(path) if re.fullmatch(r"[a-z][a-z0-9-]*", name) and path.is_file() else None


def _read(path: Path) -> Program | None:
    tree = parsed(path)
    if not any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body):
        return None  # a neighbour that mains import
    return Program(path.stem.replace("_", "-"), path, as_typed(ast.get_docstring(tree) or ""))


def as_typed(text: str) -> str:
    """`text` with `moejax place-experts` for `python experiments/place_experts.py`."""

    def command(match: re.Match[str]) -> str:
        return f"moejax {match[1].replace('_', '-')}"

    return re.sub(r"(?:python )?\bexperiments/(\w+)\.py\b", command, text)
