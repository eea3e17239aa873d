"""The leaf types, found by their files: a module of this folder with `EXAMPLES` defines one.

An example is a function (draw, num_experts) -> a small bank, where draw(*shape) gives an array of normal numbers; the
conformance tests run over all of them, so that a new leaf is tested before its author writes a test.
Source: ours.
"""

import functools
import importlib
import pkgutil
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
    for info in pkgutil.iter_modules(moejax.linear.__path__):
        module = importlib.import_module(f"moejax.linear.{info.name}")
        if hasattr(module, "EXAMPLES"):
            (found[info.name],) = (
                value
                for value in vars(module).values()
                if isinstance(value, type) and is_leaf(value) and value.__module__ == module.__name__
            )
    return found


def examples() -> dict[str, Example]:
    """'low_rank-1' -> the second example of moejax/linear/low_rank.py, and so on."""
    modules = {name: importlib.import_module(f"moejax.linear.{name}") for name in leaf_types()}
    return {f"{name}-{i}": example for name, module in modules.items() for i, example in enumerate(module.EXAMPLES)}


def type_name(leaf: Any) -> str:
    """The file name of a leaf's type. Raises SpecError for a type that no file of the folder defines."""
    for name, cls in leaf_types().items():
        if type(leaf) is cls:
            return name
    raise SpecError(f"{type(leaf).__name__} is no leaf type of moejax/linear: {', '.join(leaf_types())}.")
