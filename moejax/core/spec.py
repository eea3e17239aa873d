"""From config to frozen spec. The folder is the registry: `name='soft'` in room `routing` means `moejax/routing/soft.py`.

A method file ends with `EXAMPLES`, a tuple of small specs of one class; that class is the method. A spec field made
with `method(room)` takes a nested config with a `name`, or an instance; a field whose type is a dataclass takes a nested
config. A name with a colon, 'package.module:Class', is a class outside of this package: a router of your own, say.
Nothing below this border sees a ConfigDict.
"""

import dataclasses
import importlib
import pkgutil
import types
import typing
from collections.abc import Mapping
from typing import Any

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.own_classes import check_contract, class_elsewhere, is_elsewhere

Config = Any  # a mapping from field to value: a dict, or a ConfigDict (which is no collections.abc.Mapping)


def method(room: str, **kwargs: Any) -> Any:
    """A spec field that holds a method of `room`, built from a config with a `name`."""
    return dataclasses.field(metadata={"room": room}, **kwargs)


def methods(room: str) -> dict[str, type]:
    """All methods of a room: file name -> spec class. Source: ours."""
    package = importlib.import_module(f"moejax.{room}")
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"moejax.{room}.{info.name}")
        if examples := getattr(module, "EXAMPLES", None):
            found[info.name] = type(examples[0])
    return found


def examples(room: str) -> list[tuple[str, Any]]:
    """(name, spec) of every `EXAMPLES` entry of a room; conformance tests run over it."""
    return [
        (name, spec) for name in methods(room) for spec in importlib.import_module(f"moejax.{room}.{name}").EXAMPLES
    ]


def build_method(room: str, config: Config | str, *, path: str = "config") -> Any:
    """The method of `room` that `config['name']` names, with the other keys as its fields.

    A name 'package.module:Class' is imported from where it says. Raises SpecError for an unknown name or field, naming the
    nearest allowed one.
    """
    if isinstance(config, str):
        config = {"name": config}
    fields = dict(config)
    if "name" not in fields:
        raise SpecError(f"{path} needs a 'name'.{did_you_mean('', methods(room))}")
    name = fields.pop("name")
    if is_elsewhere(name):
        return build_spec(class_elsewhere(name, path=path), fields, path=path)
    known = methods(room)
    if name not in known:
        raise SpecError(f"{path}.name={name!r} is no method of moejax/{room}.{did_you_mean(name, known)}")
    return build_spec(known[name], fields, path=path)


def build_spec(cls: type, config: Config, *, path: str = "config") -> Any:
    """An instance of the spec dataclass `cls` from a mapping, nested specs and methods included.

    Raises SpecError for a misspelt key, a missing one, or a value of the wrong type, naming `path`.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in config:
        if key not in fields:
            raise SpecError(f"{path}.{key} is not a field of {cls.__name__}.{did_you_mean(key, fields)}")
    missing = [
        f.name
        for f in fields.values()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in config
    ]
    if missing:
        raise SpecError(f"{path} lacks {', '.join(map(repr, missing))}, needed by {cls.__name__}.")
    hints = typing.get_type_hints(cls)
    values = {
        key: _build_value(fields[key], hints[key], value, path=f"{path}.{key}") for key, value in dict(config).items()
    }
    return cls(**values)


def as_config(spec: Any) -> dict[str, Any]:
    """The config that `build_spec` makes `spec` from: every field said, plain values, tuples as lists. Source: ours."""
    found = {}
    for field in dataclasses.fields(spec):
        if field.init:
            found[field.name] = _plain(getattr(spec, field.name), field.metadata.get("room"))
    return found


def _plain(value: Any, room: str | None = None) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if not dataclasses.is_dataclass(value):
        return value
    if room is None:
        return as_config(value)
    cls, stem = type(value), type(value).__module__.rpartition(".")[2]
    name = stem if methods(room).get(stem) is cls else f"{cls.__module__}:{cls.__qualname__}"
    return {"name": name, **as_config(value)}


def _build_value(field: dataclasses.Field, hint: Any, value: Any, *, path: str) -> Any:
    is_config = isinstance(value, Mapping) or hasattr(value, "to_dict")
    if "room" in field.metadata:
        if value is None and type(None) in typing.get_args(hint):
            return None
        if is_config or isinstance(value, str):
            value = build_method(field.metadata["room"], value, path=path)
        return check_contract(hint, value, path=path)
    nested = [h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h)]
    if is_config and nested:
        return build_spec(typing.cast(type, nested[0]), value, path=path)
    return check_type(hint, value, path=path)


def check_type(hint: Any, value: Any, *, path: str) -> Any:
    """`value`, with lists made tuples, if it fits the plain type `hint`; raises SpecError naming `path` otherwise."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise SpecError(f"{path}={value!r} is not allowed.{did_you_mean(str(value), map(str, allowed))}")
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        for option in options:
            try:
                return check_type(option, value, path=path)
            except SpecError as error:
                last = error
        raise SpecError(f"{path}={value!r} fits none of {' | '.join(map(_type_name, options))}.") from last
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = typing.get_args(hint)
        if len(inner) == 2 and inner[1] is ...:
            return tuple(check_type(inner[0], v, path=f"{path}[{i}]") for i, v in enumerate(value))
        if len(inner) != len(value):
            raise SpecError(f"{path}={value!r} must have {len(inner)} entries.")
        return tuple(check_type(h, v, path=f"{path}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if hint is None or hint is type(None):
        fits = value is None
    elif hint is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if fits else value
    elif hint is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif hint in (str, bool):
        fits = isinstance(value, hint)
    else:
        fits = not isinstance(hint, type) or isinstance(value, hint)
    if value is None and not fits:  # a placeholder that nobody filled
        raise SpecError(f"{path} has no value and needs one, of type {_type_name(hint)}: give {path}=VALUE.")
    if not fits:
        raise SpecError(f"{path}={value!r} must be {_type_name(hint)}, not {type(value).__name__}.")
    return value


def _type_name(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
