"""What flags of several values say: KEY=VALUE, OPTION=VALUE, and rules."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moejax.core.errors import SpecError
from moejax.interop.contract import overridden


def settings(pairs: Sequence[str], flag: str) -> dict[str, Any]:
    """'a.b=1' -> {'a': {'b': 1}}; a value that is no JSON is a string. Raises SpecError for a pair without '='."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise SpecError(f"--{flag}={pair!r} must be KEY=VALUE.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        for part in reversed(key.split(".")):
            value = {part: value}
        found = overridden(found, value)
    return found


def options(pairs: Sequence[str], flag: str) -> dict[str, str]:
    """'a=1' -> {'a': '1'}. Raises SpecError for a pair without '='."""
    for pair in pairs:
        if "=" not in pair:
            raise SpecError(f"--{flag}={pair!r} must be OPTION=VALUE.")
    return dict(pair.split("=", 1) for pair in pairs)


def read_rules(text: str | None) -> list[Any]:
    """The rules of inline JSON or of a file. Raises SpecError for anything but a list."""
    if text is None:
        return []
    try:
        found = json.loads(text if text.lstrip().startswith("[") else Path(text).read_text())
    except (ValueError, OSError) as error:
        raise SpecError(f'--rules: {error}; give [["regex", "rule"], ...] or a file of it.') from error
    if not isinstance(found, list):
        raise SpecError("--rules must be a list of [regex, rule] pairs.")
    return found
