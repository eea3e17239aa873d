"""The leaf types, found by their files: a module of this folder that defines a leaf class, and ends with `EXAMPLES` of it.

An example is a function (draw, num_experts) -> a small bank, where draw(*shape) gives an array of normal numbers; the
conformance tests run over all of them, so that a new leaf is tested before its author writes a test.
Source: ours.
"""

import dataclasses
import functools
import importlib
import pkgutil
import types
from collections.abc import Callable
from typing import Any

import moejax.linear
from moejax.core.errors import SpecError
from moejax.linear.contract import is_leaf

Example = Callable[[Callable[..., Any], int], Any]


@functools.cache
def leaf_types() -> dict[str, type]:
    """File name -> the one leaf class that the file defines."""
    found = {}
    for name, module in _modules().items():
        own = [value for value in vars(module).values() if _is_leaf_type(value) and value.__module__ == module.__name__]
        if own:
            (found[name],) = own
    return found


def examples() -> dict[str, Example]:
    """'low_rank-1' -> the second example of moejax/linear/low_rank.py, and so on."""
    found = {name: getattr(module, "EXAMPLES", ()) for name, module in _modules().items()}
    return {f"{name}-{i}": example for name, several in found.items() for i, example in enumerate(several)}


def _modules() -> dict[str, types.ModuleType]:
    names = [info.name for info in pkgutil.iter_modules(moejax.linear.__path__)]
    return {name: importlib.import_module(f"moejax.linear.{name}") for name in names}


def _is_leaf_type(value: Any) -> bool:
    return isinstance(value, type) and is_leaf(value) and dataclasses.is_dataclass(value)


def type_name(leaf: Any) -> str:
    """The file name of a leaf's type. Raises SpecError for a type that no file of the folder defines."""
    for name, cls in leaf_types().items():
        if type(leaf) is cls:
            return name
    raise SpecError(f"{type(leaf).__name__} is no leaf type of moejax/linear: {', '.join(leaf_types())}.")
