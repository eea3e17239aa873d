"""What files of the project say of themselves, read by `ast` without running them."""

import ast
import re
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """The tree of one file."""
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line. 'et al. 2024' and '8. 5' end none. Source: ours."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    end = re.search(r"(?<!\bal)(?<!\bvs)(?<!e\.g)(?<!i\.e)\.(?=\s+[A-Z`'\"(]|$)", paragraph)
    return paragraph[: end.end()] if end else paragraph


def source(tree: ast.Module) -> str:
    """The first reference after `Source:` in the file's docstring or in one of its classes'; empty where there is none."""
    nodes: list[ast.Module | ast.ClassDef] = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]
    for node in nodes:
        _, found, rest = (ast.get_docstring(node) or "").partition("Source:")
        if found:
            said = re.split(r"\n\s*\n|\bDeviations\b", rest)[0]
            return first_sentence(" ".join(said.split()).partition(";")[0]).rstrip(".")
    return ""


def assigns(tree: ast.Module, name: str) -> bool:
    """Whether the file gives `name` a value at its top level."""
    return any(
        isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
        for node in tree.body
    )
