"""Errors that teach the fix: the value, what is allowed, and the nearest allowed name."""

import difflib
from collections.abc import Iterable


class SpecError(ValueError):
    """A config or spec that cannot be built. Raised before anything is compiled or allocated."""


def did_you_mean(value: str, allowed: Iterable[str]) -> str:
    """'; did you mean 'soft'? Allowed: ...' for a misspelt `value`. Source: ours."""
    names = sorted(str(name) for name in allowed)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Allowed: {', '.join(names) if names else '(none)'}."
