"""The contract of a foreign format: a file of this folder with `FORMAT`, `read` and, where the format can be written, `write`.

The folder is the registry: `--from vmoe` means `moejax/interop/vmoe.py`. A format file defines

    FORMAT = "one line: what it is and what its path names"
    def read(path, *, model=None, <own options>) -> Foreign
    def write(foreign, path, *, <own options>) -> None

A format may lack one of the two. Options are keyword arguments with defaults; those of the command line arrive as strings. A file without FORMAT is no format.
Source: ours.
"""

import dataclasses
import importlib
import inspect
import json
import pkgutil
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.segments import layer_names
from moejax.core.spec import build_method
from moejax.core.tree import leaf_names
from moejax.interop.named_tensors import fill


@dataclasses.dataclass(frozen=True, kw_only=True)
class Foreign:
    """Weights with the model that they make.

    model: its config, {'name': 'vit', ...}, of plain values, for `build_method('models', model)`. params: stacked as that
    model's `init` stacks them; state: of its routers. notes: what was left out or assumed, one line each. step: of training,
    0 where it is not known.
    """

    model: Mapping[str, Any]
    params: Any
    state: Any
    notes: tuple[str, ...] = ()
    step: int = 0
    run: Mapping[str, Any] | None = None

    @property
    def spec(self) -> Any:
        """The model."""
        return build_method("models", self.model, path="model")


def formats() -> dict[str, types.ModuleType]:
    """Every format of this folder by name."""
    package = importlib.import_module("moejax.interop")
    modules = {
        m.name: importlib.import_module(f"moejax.interop.{m.name}") for m in pkgutil.iter_modules(package.__path__)
    }
    return {name: module for name, module in modules.items() if hasattr(module, "FORMAT")}


def format_named(name: str, known: Mapping[str, Any], *, does: str = "read") -> Any:
    """The format called `name`. Raises SpecError for an unknown one, and for one that lacks `does`: 'read' or 'write'."""
    usable = {key: module for key, module in known.items() if hasattr(module, does)}
    if name not in usable:
        what = f"has no way to {does}" if name in known else "is no format of moejax/interop"
        raise SpecError(f"{name!r} {what}.{did_you_mean(name, usable)}")
    return usable[name]


def check_options(function: Any, options: Mapping[str, Any], *, what: str) -> None:
    """Raises SpecError for an option that `function` does not have, naming the nearest that it has."""
    own = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "model"
    ]
    for name in options:
        if name not in own:
            raise SpecError(f"{what} has no option {name!r}.{did_you_mean(name, own)}")


def overridden(deduced: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """`deduced` with the values of `given` in their places; a method of another 'name' replaces the whole part."""
    found = dict(deduced)
    for key, value in (given or {}).items():
        old = found.get(key)
        if not isinstance(value, Mapping):
            found[key] = value
        elif isinstance(old, Mapping) and value.get("name", old.get("name")) == old.get("name"):
            found[key] = overridden(old, value)
        else:
            found[key] = dict(value)
    return found


def assembled(spec: Any, leaves: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """Parameters and fresh state of the model `spec` from its leaves, layer by layer ('blocks/03/...'), by name.

    A leaf of the same size takes the model's shape: kernels per head become matrices. Raises SpecError naming every leaf
    that is missing, left over, or of another size.
    """
    template, _ = jax.eval_shape(spec.init, jax.random.key(0))
    shapes = dict(zip(leaf_names(template), jax.tree.leaves(template), strict=True))
    left, stacked = dict(leaves), {}
    for name, shape in shapes.items():
        names = layer_names(name)
        if not all(each in left for each in names):
            continue
        own = [left.pop(each) for each in names]
        whole = own[0] if names == [name] else np.stack(own)
        stacked[name] = whole.reshape(shape.shape) if whole.size == np.prod(shape.shape) else whole
    params = fill(template, stacked | left)
    return params, jax.jit(lambda key: spec.init(key)[1])(jax.random.key(0))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` as JSON would give it back. Raises SpecError for a value that JSON does not have."""
    try:
        return json.loads(json.dumps(config))
    except TypeError as error:
        raise SpecError(f"the model's config holds a value that is no plain data ({error}).") from error
