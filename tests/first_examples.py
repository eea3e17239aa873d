"""Parameters of conformance tests: one example of every method in the quick run, all of them in the slow one."""

import pytest


def quick_first(names):
    """Names 'method-3' in their order; all but the first of each method are slow."""
    seen: set[str] = set()
    found = []
    for name in names:
        method = name.rpartition("-")[0]
        found.append(pytest.param(name, id=name, marks=[pytest.mark.slow] if method in seen else []))
        seen.add(method)
    return found
