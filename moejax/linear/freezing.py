"""Which arrays of a tree train: leaves that tune a frozen kernel say by a class field FROZEN which of their fields do not.

Frozen arrays get a gradient of exactly zero from the leaf itself; the patterns here keep an optimiser from spending
memory on them, or from letting them decay.
Source: ours.
"""

import re
from typing import Any

import jax

from moejax.core.tree import leaf_names
from moejax.linear.contract import is_leaf


def trainable(params: Any) -> Any:
    """True for every array that trains, False for a frozen one, in the structure of `params`."""
    frozen = [re.compile(pattern) for pattern in frozen_patterns(params)]
    names = leaf_names(params)
    flags = [not any(pattern.search(name) for pattern in frozen) for name in names]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def frozen_patterns(params: Any) -> tuple[str, ...]:
    """One regex per frozen array, as `Optimizer.frozen` takes them: found in the end of its name and in no other."""
    found = []
    for path, node in jax.tree_util.tree_flatten_with_path(params, is_leaf=is_leaf)[0]:
        frozen = getattr(node, "FROZEN", ())
        prefix = jax.tree_util.keystr(path, simple=True, separator="/")
        parts = leaf_names(node) if frozen else []
        found += [
            rf"(^|/){re.escape('/'.join(filter(None, (prefix, part))))}$" for part in parts if _field(part) in frozen
        ]
    return tuple(found)


def _field(name: str) -> str:
    return name.split("/")[0]
