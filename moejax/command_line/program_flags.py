"""The flags that a main defines, read from its source: help and completion in a tenth of a second, without jax."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

from moejax.command_line.sources import parsed

# What stands behind a flag of each kind; kinds are the endings of absl's `flags.DEFINE_...` and config_flags'.
VALUES = {
    "string": "TEXT", "integer": "N", "float": "X", "list": "A,B,...", "spaceseplist": "'A B ...'", "enum": "NAME",
    "multi_string": "TEXT", "multi_integer": "N", "multi_float": "X", "multi_enum": "NAME", "config_file": "FILE[:arguments]",
}  # fmt: skip
# The positional arguments of the definitions that differ from (name, default, help).
ORDERS = {"enum": ("name", "default", "enum_values", "help"), "multi_enum": ("name", "default", "enum_values", "help")}
ORDER = ("name", "default", "help")


@dataclasses.dataclass(frozen=True)
class Flag:
    """kind: 'string', 'boolean', 'config_file' ... default: as text, empty for none. values: of an enum."""

    name: str
    kind: str
    default: str = ""
    help: str = ""
    values: tuple[str, ...] = ()
    required: bool = False

    @property
    def takes_value(self) -> bool:
        """False for switches, and for flags whose values are `--name.key=value`."""
        return self.kind not in ("boolean", "bool", "config_dict")

    @property
    def usage(self) -> str:
        """As it is typed: `--steps N`, `--[no]quiet`, `--data.KEY=VALUE`."""
        if self.kind in ("boolean", "bool"):
            return f"--[no]{self.name}"
        if self.kind == "config_dict":
            return f"--{self.name}.KEY=VALUE"
        return f"--{self.name} {VALUES.get(self.kind, 'VALUE')}"


def flags_of(path: Path) -> list[Flag]:
    """The flags of a main and of the neighbours that it imports, in the order of their definition. Source: ours."""
    tree = parsed(path)
    constants = _constants(tree)
    required = {name for call in _calls(tree, "mark_flag") for name in _strings(call.args[0], constants)}
    found: list[Flag] = []
    for call, kind in ((c, str(_name(c)).removeprefix("DEFINE_")) for c in _calls(tree, "DEFINE_")):
        given = dict(zip(ORDERS.get(kind, ORDER), call.args)) | {k.arg: k.value for k in call.keywords if k.arg}
        names = _strings(given["name"], constants)
        if len(names) == 1:  # a name that is computed cannot be read
            found.append(_flag(names[0], kind, given, constants, required))
    for neighbour in _neighbours(tree, path.parent):
        found += flags_of(neighbour)
    return found


def _flag(name: str, kind: str, given: dict[str, ast.expr], constants: dict[str, Any], required: set[str]) -> Flag:
    said = _strings(given["help"], constants) if "help" in given else ()
    marked = "required" in given and _value(given["required"], constants) is True
    return Flag(
        name=name,
        kind=kind,
        default=_default(given.get("default"), constants),
        help=" ".join(" ".join(said).split()),
        values=_strings(given["enum_values"], constants) if "enum_values" in given else (),
        required=marked or name in required,
    )


def _default(node: ast.expr | None, constants: dict[str, Any]) -> str:
    if node is None:
        return ""
    value = _value(node, constants)
    if isinstance(value, ast.expr):
        return "/".join(_path(value))
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "" if value is None or value is False else str(value)


def _path(node: ast.expr) -> list[str]:
    """The parts of `str(RESULTS / "plan.json")`; none of an expression that is no path, since it would tell nobody anything."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "str" and isinstance(node.args[0], ast.BinOp):
        return _path(node.args[0])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
        left = [node.left.id.lower()] if isinstance(node.left, ast.Name) else _path(node.left)
        return [*left, str(node.right.value)]
    return []


def _calls(tree: ast.AST, start: str) -> list[ast.Call]:
    """Calls of functions whose name begins with `start`, in the order of the file."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and str(_name(node)).startswith(start)]
    return sorted(calls, key=lambda call: call.lineno)


def _name(call: ast.Call) -> str | None:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Names that the file gives a literal at its top level."""
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = _value(node.value, found)
            if not isinstance(value, ast.expr):
                found[node.targets[0].id] = value
    return found


def _value(node: ast.expr, constants: dict[str, Any]) -> Any:
    """What a literal, a constant's name or a list of both stands for; any other expression comes back as it is."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, node)
    if isinstance(node, (ast.List, ast.Tuple)):
        parts = [_value(n.value if isinstance(n, ast.Starred) else n, constants) for n in node.elts]
        if any(isinstance(part, ast.expr) for part in parts):
            return node
        pairs = zip(node.elts, parts)
        return [v for n, part in pairs for v in (part if isinstance(n, ast.Starred) else [part])]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return node


def _strings(node: ast.expr, constants: dict[str, Any]) -> tuple[str, ...]:
    value = _value(node, constants)
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, (list, tuple, dict)) else ()


def _neighbours(tree: ast.Module, folder: Path) -> list[Path]:
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return [path for name in names if "." not in name and (path := folder / f"{name}.py").is_file()]
