"""The structure of a tree of parameters as plain data, so that a checkpoint can tell what its arrays make up.

Dicts stay dicts; an array is {'$array': [shape, dtype]}, a leaf {'$leaf': file name, field: ...} with its static fields as
they are, a tuple {'$tuple': [...]}, a list {'$list': [...]}, None is null. Everything is JSON.
Source: ours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.linear.contract import is_leaf
from moejax.linear.registry import leaf_types, type_name

_SCALARS = (bool, int, float, str, type(None))


def describe(params: Any, *, path: str = "params") -> Any:
    """The description of a tree of arrays (or their shapes) and leaves.

    Raises SpecError naming the place of what cannot be described: a node of another type, a static field that is no number,
    string or tuple of them, a key that is no string or begins with '$'.
    """
    if params is None:
        return None
    if is_leaf(params):
        return _describe_leaf(params, path)
    if isinstance(params, Mapping):
        wrong = [key for key in params if not isinstance(key, str) or key.startswith("$")]
        if wrong:
            raise SpecError(f"{path}: the key {wrong[0]!r} must be a string that does not begin with '$'.")
        return {key: describe(value, path=f"{path}/{key}") for key, value in params.items()}
    if isinstance(params, tuple | list):
        items = [describe(value, path=f"{path}/{i}") for i, value in enumerate(params)]
        return {"$tuple" if isinstance(params, tuple) else "$list": items}
    if hasattr(params, "shape") and hasattr(params, "dtype"):
        return {"$array": [list(params.shape), str(params.dtype)]}
    raise SpecError(f"{path}: a {type(params).__name__} is neither array, leaf, dict, tuple, list nor None.")


def abstract(description: Any, *, path: str = "params") -> Any:
    """The described tree with `jax.ShapeDtypeStruct` in the place of every array.

    Raises SpecError naming the place of a leaf type that does not exist, of a field that it lacks or does not have, and
    of anything that `describe` does not write.
    """
    if description is None:
        return None
    if not isinstance(description, Mapping):
        raise SpecError(f"{path}: {description!r} describes nothing; expected a dict, or null.")
    if "$array" in description:
        return _abstract_array(description["$array"], path)
    if "$leaf" in description:
        return _abstract_leaf(description, path)
    for mark, kind in (("$tuple", tuple), ("$list", list)):
        if mark in description:
            return kind(abstract(value, path=f"{path}/{i}") for i, value in enumerate(description[mark]))
    unknown = [key for key in description if key.startswith("$")]
    if unknown:
        raise SpecError(f"{path}: unknown mark {unknown[0]!r}.{did_you_mean(unknown[0], _MARKS)}")
    return {key: abstract(value, path=f"{path}/{key}") for key, value in description.items()}


_MARKS = ("$array", "$leaf", "$tuple", "$list")


def _describe_leaf(leaf: Any, path: str) -> dict[str, Any]:
    try:
        described: dict[str, Any] = {"$leaf": type_name(leaf)}
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    for field in dataclasses.fields(leaf):
        value, where = getattr(leaf, field.name), f"{path}/{field.name}"
        described[field.name] = describe(value, path=where) if _is_node(field) else _describe_static(value, where)
    return described


def _describe_static(value: Any, path: str) -> Any:
    if isinstance(value, tuple):
        return [_describe_static(item, path) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _SCALARS):
        return value
    raise SpecError(f"{path}: the static value {value!r} is no number, string, None or tuple of them.")


def _abstract_array(described: Any, path: str) -> jax.ShapeDtypeStruct:
    try:
        shape, dtype = described
        return jax.ShapeDtypeStruct(tuple(int(size) for size in shape), jnp.dtype(dtype))
    except (TypeError, ValueError) as error:
        raise SpecError(f"{path}: {described!r} is no [shape, dtype] ({error}).") from error


def _abstract_leaf(description: Mapping[str, Any], path: str) -> Any:
    name, known = description["$leaf"], leaf_types()
    if name not in known:
        raise SpecError(f"{path}: {name!r} is no leaf type of moejax/linear.{did_you_mean(str(name), known)}")
    fields = {field.name: field for field in dataclasses.fields(known[name])}
    given = {key: value for key, value in description.items() if key != "$leaf"}
    for key in given:
        if key not in fields:
            raise SpecError(f"{path}: {name} has no field {key!r}.{did_you_mean(key, fields)}")
    missing = [key for key in fields if key not in given]
    if missing:
        raise SpecError(f"{path}: {name} lacks {', '.join(map(repr, missing))}.")
    values = {
        key: abstract(value, path=f"{path}/{key}") if _is_node(fields[key]) else _abstract_static(value)
        for key, value in given.items()
    }
    return known[name](**values)


def _abstract_static(value: Any) -> Any:
    return tuple(_abstract_static(item) for item in value) if isinstance(value, list | tuple) else value


def _is_node(field: dataclasses.Field) -> bool:
    return field.metadata.get("pytree_node", True)
