"""Start from the parameters of another run: which leaves are loaded and which are made anew, by name."""

import logging
import re
from typing import Any

import jax
import numpy as np

from moejax.core.errors import SpecError
from moejax.core.tree import describe, differences, flatten, match_rules
from moejax.train.checkpoints import Restored

logger = logging.getLogger(__name__)


def initialise_from(params: Any, state: Any, source: Restored, *, reinitialise: tuple[str, ...] = ()) -> Any:
    """(params, state) with the leaves of `source` in place of fresh ones, except those that `reinitialise` names.

    The source's moving average is taken where it has one. reinitialise: regexes over leaf names ('^head'); every leaf
    that no pattern names must be in the source with the same shape and dtype. Each decision is logged.
    Raises SpecError naming the leaves that do not fit, or a pattern that names no leaf. Source: ours.
    """
    prefix = "ema/" if any(name.startswith("ema/") for name in source.leaves) else "params/"
    found = {n.removeprefix(prefix): leaf for n, leaf in source.leaves.items() if n.startswith(prefix)}
    rules = [(pattern, "fresh") for pattern in reinitialise]
    chosen = flatten(match_rules(rules, params, default="loaded", what="train.reinitialise"))
    wanted = {name: leaf for name, leaf in flatten(params).items() if chosen[name] == "loaded"}
    offered = {name: leaf for name, leaf in found.items() if name in wanted or not _named(name, reinitialise)}
    lines = differences(wanted, offered)
    if lines:
        shown = "\n".join(f"  {line}" for line in lines[:20])
        raise SpecError(
            f"train.init_from: {len(lines)} leaves of the run at step {source.step} do not fit:\n{shown}\n"
            "Give the model the same shape, or name these leaves in train.reinitialise, such as ('^head',)."
        )
    for name, choice in chosen.items():
        logger.info("init_from: %s %s %s", name, choice, describe(flatten(params)[name]))
    loaded = _replace(params, {name: np.asarray(found[name]) for name in wanted})
    old_state = {n.removeprefix("state/"): leaf for n, leaf in source.leaves.items() if n.startswith("state/")}
    if differences(state, old_state):
        logger.info("init_from: the router state has another shape and starts anew")
        return loaded, state
    return loaded, _replace(state, old_state)


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _replace(tree: Any, leaves: dict[str, np.ndarray]) -> Any:
    treedef = jax.tree.structure(tree)
    return jax.tree.unflatten(treedef, [leaves.get(name, leaf) for name, leaf in flatten(tree).items()])
