"""The leaves of one model made those of another, by the rules of leaf_rules.py.

Source: ours; surgery by regex over leaf names as in big_vision `utils.py`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.segments import layer_names
from moejax.core.tree import flatten, map_with_names, match_rules
from moejax.models.leaf_rules import RULES, Leaf, Load, build_rules


def transfer(
    source: Mapping[str, Any], target: Any, rules: Sequence[Any], key: PRNGKeyArray
) -> tuple[Any, tuple[str, ...]]:
    """The tree `target` with the leaves that the rules say, and one line per leaf that a rule named, and per leaf of the source that
    none took.

    source: leaves by name, stacked or not. target: fresh parameters (or their shapes: then it is a check that computes what
    needs no fresh value). Raises SpecError naming every leaf that does not fit, and a pattern that names no leaf.
    """
    given, fresh = split_leaves(source), split_leaves(flatten(target))
    chosen = match_rules(build_rules(rules), fresh, default=Load(), what="rules")
    patterns = [(pattern, re.compile(pattern)) for pattern, _ in rules]
    leaves, wrong, log, used = {}, [], [], set[str]()
    for name, leaf in fresh.items():
        hit = next(((p, m) for p, c in patterns if (m := c.search(name))), None)
        try:
            found = chosen[name].apply(Leaf(name, leaf, given, key, used), hit[1] if hit else None)
        except SpecError as error:
            wrong.append(str(error))
            continue
        if tuple(found.shape) != tuple(leaf.shape):
            wrong.append(f"{name} must be {list(leaf.shape)}, found {list(found.shape)} by {chosen[name]}")
        leaves[name] = found.astype(leaf.dtype) if isinstance(found, np.ndarray) else found
        if hit:
            log.append(f"{name} matches {hit[0]!r} -> {chosen[name]}")
    log += [f"{name} of the source is not used" for name in given if name not in used]
    if wrong:
        more = f"\n  and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise SpecError(f"{len(wrong)} leaves do not fit:\n  " + "\n  ".join(wrong[:20]) + more + "\nName them in a rule: "
                        f"({', '.join(RULES)}), such as ('^head', 'fresh').")  # fmt: skip
    return map_with_names(lambda name, _: _stacked([leaves[each] for each in layer_names(name)], name), target), tuple(
        log
    )


def split_leaves(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Stacked leaves as those of single layers; shapes stay shapes."""
    found = {}
    for name, leaf in leaves.items():
        names = layer_names(name)
        abstract = isinstance(leaf, jax.ShapeDtypeStruct)
        for i, each in enumerate(names):
            if names == [name]:
                found[each] = leaf
            else:
                found[each] = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) if abstract else leaf[i]
    return found


def _stacked(layers: list[Any], name: str) -> Any:
    if layer_names(name) == [name]:
        return layers[0]
    if isinstance(layers[0], jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(layers), *layers[0].shape), layers[0].dtype)
    return np.stack([np.asarray(layer) for layer in layers]) if isinstance(layers[0], np.ndarray) else jnp.stack(layers)
