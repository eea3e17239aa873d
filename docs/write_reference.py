"""Writes the pages that are made from the code: the map of rooms, the tables of methods, the fields of every spec, the API pages.

  python docs/write_reference.py           # docs/map.md and docs/reference/*.md
  python docs/write_reference.py --check   # exit code 1 when docs/map.md, which is kept under version control, is out of date

The library is read, not imported, but for the fields of the specs, whose defaults only Python knows.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import pathlib
import re
import sys
import typing
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

# Folder whose files are methods -> what they are called.
METHODS = {
    "routing": "Routers",
    "routing/gates": "Gates",
    "experts": "Expert banks",
    "exchange": "Exchanges",
    "compress": "Compressors",
    "diffusion/processes": "Diffusion processes",
    "diffusion/samplers": "Samplers",
    "theory/studies": "Studies of estimation rates",
    "tasks": "Tasks",
}

# Specs that a config file is made of, beside the methods.
SPECS = {
    "The training run (`config.train`)": "moejax.train.spec:Train",
    "Meshes (`config.train.mesh`)": "moejax.sharding.mesh:MeshSpec",
    "Sharding rules (`config.train.rules`)": "moejax.sharding.rules:Rules",
    "Several processes (`config.train.processes`)": "moejax.sharding.processes:Processes",
    "The optimiser (`config.optimizer`)": "moejax.train.optimizers:Optimizer",
    "The mixture-of-experts layer (`config.model.moe`)": "moejax.layers.moe:MoE",
    "Vision transformers (`config.model`)": "moejax.models.vit:VisionTransformer",
    "Diffusion transformers (`config.model`)": "moejax.models.dit:DiffusionTransformer",
    "Decoders (`config.model`)": "moejax.models.decoder:Decoder",
}


@dataclasses.dataclass(frozen=True)
class Method:
    """One file of a folder of methods, as its docstrings tell it."""

    name: str
    path: pathlib.Path
    what: str
    source: str
    deviations: str
    test: str | None


def sentences(text: str, label: str) -> str:
    """What follows `label:` in a docstring, up to the next label, blank line or paragraph of fields; one line."""
    found = re.search(rf"^[ ]*{label}:(.*?)(?=^\s*$|^[ ]*(?:Source|Deviations|Raises|Errors):|\Z)", text, re.S | re.M)
    return " ".join(found.group(1).split()) if found else ""


def first_sentence(text: str) -> str:
    return " ".join(text.strip().split("\n\n")[0].split()) if text.strip() else ""


def method_files(folder: str) -> Iterator[Method]:
    """The files of moejax/FOLDER that end with EXAMPLES."""
    for path in sorted((ROOT / "moejax" / folder).glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        last = tree.body[-1] if tree.body else None
        if not (isinstance(last, ast.Assign) and getattr(last.targets[0], "id", None) == "EXAMPLES"):
            continue
        texts = [
            ast.get_docstring(node) or "" for node in (tree, *tree.body) if isinstance(node, ast.Module | ast.ClassDef)
        ]
        together = "\n\n".join(texts)
        own = ROOT / "tests" / folder / f"test_{path.stem}.py"
        shared = ROOT / "tests" / pathlib.Path(folder).parent / f"test_{pathlib.Path(folder).name}.py"
        test = next((str(one.relative_to(ROOT)) for one in (own, shared) if one.is_file()), None)
        yield Method(
            path.stem, path.relative_to(ROOT), first_sentence(texts[0]), sentences(together, "Source"),
            sentences(together, "Deviations"), test,
        )  # fmt: skip


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[") or "-"


def methods_page() -> str:
    """Every method: what it is, where it is from, where it differs, what holds it to that."""
    lines = [
        "# Table of methods", "",
        "Made from the docstrings of the code. *Source* is the paper and, where it matters, the equation; *deviations* is where the",
        "code differs from it. Status: **laws** are the conformance tests of the room, which every method of it passes on CPU",
        "([Verification](../verification.md)); the test named beside has cases worked out by hand.", "",
    ]  # fmt: skip
    for folder, title in METHODS.items():
        laws = ROOT / "tests" / folder / "test_conformance.py"
        held = "laws + own test" if laws.is_file() else "own test"
        lines += [
            f"## {title}",
            "",
            "| name | what | source | deviations | status | test |",
            "|---|---|---|---|---|---|",
        ]
        for one in method_files(folder):
            test = f"`{one.test}`" if one.test else "-"
            lines.append(
                f"| `{one.name}` | {cell(one.what)} | {cell(one.source)} | {cell(one.deviations)} | {held if one.test else 'laws'} | {test} |"
            )
        lines.append("")
    return "\n".join(lines)


def type_name(hint: typing.Any) -> str:
    """A type as one writes it."""
    if typing.get_origin(hint) is typing.Literal:
        return " \\| ".join(repr(value) for value in typing.get_args(hint))
    text = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    return re.sub(r"\b(?:moejax|typing|collections)[\w.]*\.", "", text).replace("|", "\\|").replace("[", "\\[")


def default_of(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return (
            f"`{field.default!r}`"
            if not dataclasses.is_dataclass(field.default)
            else f"`{type(field.default).__name__}`"
        )
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    return "**needed**"


def spec_section(title: str, cls: type) -> list[str]:
    """Heading, docstring and table of one spec."""
    text = inspect.cleandoc(cls.__doc__ or "")
    hints = typing.get_type_hints(cls)
    lines = [f"### {title}", "", f"`{cls.__module__}.{cls.__name__}`", "", "```text", text, "```", ""]
    fields = [field for field in dataclasses.fields(cls) if field.init]
    if fields:
        lines += ["| field | type | default |", "|---|---|---|"]
        for field in fields:
            room = field.metadata.get("room")
            kind = f"a method of `{room}`" if room else type_name(hints[field.name])
            lines.append(f"| `{field.name}` | {kind} | {default_of(field)} |")
        lines.append("")
    return lines


def configuration_page() -> str:
    """The fields of every spec that a config can name."""
    from moejax.core.spec import methods

    lines = [
        "# Configuration reference", "",
        "A config is a nested mapping; every level is one frozen spec, whose fields are the keys. A field that holds a method takes",
        "`{\"name\": FILE, ...}`. Unknown names and keys are refused with the nearest one before anything is compiled. On a command line:",
        "`--config.train.steps=100`. Made from the specs.", "", "## Parts of a run", "",
    ]  # fmt: skip
    for title, where in SPECS.items():
        module, _, name = where.partition(":")
        lines += spec_section(title, getattr(importlib.import_module(module), name))
    for folder, title in METHODS.items():
        lines += [f"## {title}", ""]
        for name, cls in methods(folder.replace("/", ".")).items():
            lines += spec_section(f"`{name}`", cls)
    return "\n".join(lines)


def rooms() -> dict[str, set[str]]:
    """The table of imports that tests/architecture keeps, read from it."""
    tree = ast.parse((ROOT / "tests/architecture/test_imports.py").read_text("utf-8"))
    (table,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "ROOMS"]
    assert isinstance(table, ast.Dict)
    found = {}
    for key, value in zip(table.keys, table.values, strict=True):
        found[ast.literal_eval(typing.cast(ast.expr, key))] = (
            set() if isinstance(value, ast.Call) else ast.literal_eval(value)
        )
    return found


def folder_of(room: str) -> pathlib.Path:
    if room == "moejax":
        return ROOT / "moejax"
    return ROOT / "kernels/moejax_kernels" if room == "moejax_kernels" else ROOT / "moejax" / room


def layers_of(table: dict[str, set[str]]) -> list[list[str]]:
    """Rooms by how far they are from the bottom."""
    done: list[list[str]] = []
    seen: set[str] = set()
    while len(seen) < len(table):
        free = sorted(room for room, needs in table.items() if room not in seen and needs <= seen)
        assert free, "the table of imports has a cycle"
        done.append(free)
        seen |= set(free)
    return done


def map_page() -> str:
    """Rooms, what lives in each, and what each may import."""
    table = rooms()
    lines = [
        "# Map of the code", "",
        "Data flows one way, and so do imports: a room imports from rooms below it only. The table is the one that",
        "`tests/architecture/test_imports.py` checks; this page is made from it by `docs/write_reference.py`.", "",
        "| level | room | what lives there | may import |", "|---|---|---|---|",
    ]  # fmt: skip
    for level, names in enumerate(layers_of(table)):
        for room in names:
            folder = folder_of(room)
            what = first_sentence(ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or "")
            where = "moejax" if room == "moejax" else str(folder.relative_to(ROOT))
            imports = ", ".join(f"`{name}`" for name in sorted(table[room])) or "-"
            lines.append(f"| {level} | `{where}` | {cell(what)} | {imports} |")
    lines += [
        "", "Above them, not imported by anything: `experiments/` (mains of at most 150 lines), `configs/` (data), `notebooks/`,",
        "`kernels/bench/` (benchmarks) and `tests/`, which mirrors the rooms.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def api_pages() -> Iterator[tuple[str, str]]:
    """(file name, text) of one page per room, with every module of it."""
    for room in rooms():
        if room == "moejax":
            continue
        folder = folder_of(room)
        base = folder.parent if room != "moejax_kernels" else ROOT / "kernels"
        lines = [f"# {room}", ""]
        for path in sorted(folder.rglob("*.py")):
            if path.name == "__init__.py" or any(part.startswith("_") for part in path.relative_to(folder).parts):
                continue
            parts = path.relative_to(base).with_suffix("").parts
            name = ".".join(parts if room == "moejax_kernels" else ("moejax", *parts))
            lines += [f"::: {name}", ""]
        yield f"{room}.md", "\n".join(lines)


def write() -> None:
    reference = DOCS / "reference"
    (reference / "api").mkdir(parents=True, exist_ok=True)
    (DOCS / "map.md").write_text(map_page(), "utf-8")
    (reference / "methods.md").write_text(methods_page(), "utf-8")
    (reference / "configuration.md").write_text(configuration_page(), "utf-8")
    for name, text in api_pages():
        (reference / "api" / name).write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare docs/map.md")
    if parser.parse_args().check:
        sys.exit(0 if (DOCS / "map.md").read_text("utf-8") == map_page() else "docs/map.md is out of date: make docs")
    write()


if __name__ == "__main__":
    main()
