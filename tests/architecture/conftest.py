"""The source tree as data: every module of the project, parsed once."""

import ast
import dataclasses
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ("moejax", "kernels", "experiments", "configs", "notebooks", "tests")


@dataclasses.dataclass(frozen=True)
class Module:
    """One file. `path` is relative to the root; `room` is what the table of imports calls it."""

    path: pathlib.PurePosixPath
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @property
    def name(self) -> str:
        """The dotted import name: kernels/moejax_kernels/a/b.py -> moejax_kernels.a.b."""
        parts = self.path.with_suffix("").parts
        parts = parts[1:] if parts[0] == "kernels" else parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """'core', 'routing' ... inside moejax, 'moejax' for its __init__, else the top folder or 'moejax_kernels'."""
        parts = self.path.parts
        if parts[0] == "moejax":
            return parts[1] if len(parts) > 2 else "moejax"
        return parts[1] if parts[:2] == ("kernels", "moejax_kernels") else parts[0]

    def imports(self) -> list[tuple[int, str]]:
        """(line, dotted name) of everything imported anywhere in the file; `from a import b` gives 'a.b'."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.path}:{node.lineno}: import by full name"
                found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        return found


@functools.cache
def all_modules() -> tuple[Module, ...]:
    files = [
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]
    return tuple(Module(pathlib.PurePosixPath(p.relative_to(ROOT).as_posix()), p.read_text("utf-8")) for p in files)


@pytest.fixture(scope="session")
def modules() -> tuple[Module, ...]:
    found = all_modules()
    assert len({module.room for module in found}) > 15  # a moved folder must not make these tests pass on nothing
    return found


@pytest.fixture(scope="session")
def library(modules) -> tuple[Module, ...]:
    """moejax and moejax_kernels: what is installed."""
    return tuple(m for m in modules if m.path.parts[0] == "moejax" or m.room == "moejax_kernels")
