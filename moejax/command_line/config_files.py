"""Config files by path or by short name: those of the current folder first, then those that come with the package."""

import ast
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from moejax.command_line.program_flags import Flag
from moejax.command_line.programs import root
from moejax.command_line.sources import parsed
from moejax.core.errors import SpecError, did_you_mean


def config_names() -> dict[str, Path]:
    """Short name -> file of every packaged config: 'vit/patchwork'."""
    folder = root() / "configs"
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in sorted(folder.rglob("*.py"))}


def find_config(name: str) -> Path:
    """The file that `name` names: a path, or one without `.py`, seen from here; else the same of the packaged configs,
    with `configs/` before it or not.

    Raises SpecError with the nearest name where there is none. Source: ours.
    """
    short = name.removesuffix(".py")
    inside = short.removeprefix("configs/")
    for path in (Path(name), Path(f"{short}.py"), root() / "configs" / f"{inside}.py"):
        if path.is_file():
            return path
    raise SpecError(
        f"config {name!r} is no file here, and none comes with moejax.{did_you_mean(inside, config_names())}"
    )


def with_config_files(arguments: Sequence[str], flags: Iterable[Flag]) -> list[str]:
    """`arguments` with the file in the place of every config's name; a file that was not given as a path is told on stderr.

    Raises SpecError as `find_config`.
    """
    names = {flag.name for flag in flags if flag.kind == "config_file"}
    done: list[str] = []
    waiting = False  # the last word was `--config`, so that this one is its value
    for i, word in enumerate(arguments):
        if word == "--":
            return [*done, *arguments[i:]]
        name, equals, value = word.lstrip("-").partition("=")
        named = word.startswith("-") and name in names
        if waiting:
            done.append(_told(word))
        elif named and equals:
            done.append(f"--{name}={_told(value)}")
        else:
            done.append(word)
        waiting = named and not equals and not waiting
    return done


def _told(value: str) -> str:
    name, colon, argument = value.partition(":")
    path = find_config(name)
    if path != Path(name):
        print(f"config: {path.resolve()}", file=sys.stderr)
    return f"{path}{colon}{argument}"


def config_arguments(path: Path) -> list[str]:
    """What may stand behind the colon: 'model=', 'smoke'. Read from the call of `moejax.core.arguments.parse`."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "parse":
            return [
                str(k.arg) if isinstance(k.value, ast.Constant) and k.value.value is False else f"{k.arg}="
                for k in node.keywords
                if k.arg
            ]
    return []
