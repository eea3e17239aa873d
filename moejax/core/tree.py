"""Named trees: leaves are addressed by names like `blocks/05/moe/router/kernel`, and by regex over them.

One mechanism serves sharding, freezing, weight decay, learning rates, compression and loading.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from moejax.core.errors import SpecError, did_you_mean

logger = logging.getLogger(__name__)


def leaf_names(tree: Any) -> list[str]:
    """Name of every leaf, in the order of `jax.tree.leaves`. Source: ours."""
    return [_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def flatten(tree: Any) -> dict[str, Any]:
    """Leaf name -> leaf."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from leaf names: the inverse of `flatten` for trees of dicts. Source: ours."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree


def map_with_names(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`function(name, leaf, *leaves_of_rest)` over every leaf; the tree's structure is kept."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: function(_name(path), *leaves), tree, *rest)


def match_rules(rules: Sequence[tuple[str, Any]], tree: Any, *, default: Any = None, what: str = "rule") -> Any:
    """For every leaf the value of the first rule whose regex is found in its name, else `default`.

    Each match is logged. Raises SpecError when a pattern is no regex, or when it is found in no leaf name.
    Source: ours; first match wins, as in big_vision.
    """
    compiled = [(_compile(pattern, what), value) for pattern, value in rules]
    hits = [0] * len(compiled)

    def pick(name: str, _: Any) -> Any:
        for i, (pattern, value) in enumerate(compiled):
            if pattern.search(name):
                hits[i] += 1
                logger.info("%s: %s matches %r -> %s", what, name, pattern.pattern, value)
                return value
        return default

    matched = map_with_names(pick, tree)
    for (pattern, _), count in zip(compiled, hits, strict=True):
        if not count and not any(pattern.search(name) for name in leaf_names(tree)):
            raise SpecError(
                f"{what}: pattern {pattern.pattern!r} is found in no leaf name.{did_you_mean(pattern.pattern, leaf_names(tree))}"
            )
    return matched


def describe(leaf: Any) -> str:
    """'float32[8,64]' for an array, for error messages that compare leaves."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return repr(leaf)


def differences(expected: Any, found: Any) -> list[str]:
    """One line per leaf that is missing, unexpected, or of another shape or dtype. Empty when the trees fit."""
    want, have = flatten(expected), flatten(found)
    lines = [f"missing: {name} {describe(want[name])}" for name in want if name not in have]
    lines += [f"unexpected: {name} {describe(have[name])}" for name in have if name not in want]
    lines += [
        f"differs: {name} expected {describe(want[name])}, found {describe(have[name])}"
        for name in want
        if name in have and describe(want[name]) != describe(have[name])
    ]
    return lines


def _compile(pattern: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise SpecError(f"{what}: {pattern!r} is not a regular expression ({error}).") from error


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
