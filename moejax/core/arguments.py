"""The one string that varies a config: `get_config('size=B/16,experts=32,smoke')`."""

import ast
import json
import pathlib
from types import SimpleNamespace
from typing import Any

from moejax.core.errors import SpecError, did_you_mean

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def model_of_run(source: str) -> dict[str, Any]:
    """The config of the model of a run, for configs that start from it. source: its --workdir, as the argument `source` gives it.

    Raises SpecError where no run lies there. Source: ours.
    """
    path = pathlib.Path(source) / "config.json"
    if not path.is_file():
        raise SpecError(f"source={source!r}: there is no {path}; give the --workdir of a finished run.")
    return json.loads(path.read_text())["model"]


def parse(arg: str | None, /, **defaults: Any) -> SimpleNamespace:
    """`defaults` with the values that `arg`, 'key=value,flag,...', gives in their place.

    A value takes the type of its default; a default of None takes whatever literal is written (else text), and 'none'
    gives None back. A flag (a key without a value) is a bool and becomes True.
    Raises SpecError for an unknown key, a key given twice, or a value of another type. Source: ours.
    """
    values = dict(defaults)
    seen = set()
    for item in filter(None, (part.strip() for part in (arg or "").split(","))):
        key, equals, text = (part.strip() for part in item.partition("="))
        if key not in defaults:
            raise SpecError(f"config argument {key!r} in {arg!r} is unknown.{did_you_mean(key, defaults)}")
        if key in seen:
            raise SpecError(f"config argument {key!r} is given twice in {arg!r}; give it once.")
        seen.add(key)
        if not equals and not isinstance(defaults[key], bool):
            raise SpecError(f"config argument {key!r} is no flag; write {key}=VALUE (default {defaults[key]!r}).")
        values[key] = _convert(key, text if equals else "true", defaults[key])
    return SimpleNamespace(**values)


def _convert(key: str, text: str, default: Any) -> Any:
    if default is None:
        return None if text.lower() == "none" else _literal(text)
    if isinstance(default, bool):
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise SpecError(f"config argument {key}={text!r} must be one of {', '.join(_TRUE + _FALSE)}.")
    try:
        return type(default)(text)
    except ValueError as error:
        raise SpecError(
            f"config argument {key}={text!r} must be {type(default).__name__} (default {default!r})."
        ) from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
