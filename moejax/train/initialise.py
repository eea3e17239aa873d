"""Start from the parameters of another run, or of a foreign checkpoint: which leaves are loaded, made anew or made over, by name."""

import logging
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from moejax.core.errors import SpecError
from moejax.core.tree import describe, differences, flatten, match_rules
from moejax.interop.contract import format_named, formats
from moejax.models.leaf_transfer import transfer
from moejax.train.checkpoints import Restored, read_run

logger = logging.getLogger(__name__)


def read_source(init_from: str, which: str) -> Restored:
    """The leaves of the run in a folder, or of a foreign checkpoint written 'FORMAT:PATH', such as 'vmoe:ckpts/b16'.

    Raises SpecError for an unknown format or a checkpoint that cannot be read, CheckpointError for a folder without one.
    """
    name, colon, path = init_from.partition(":")
    if not colon or Path(init_from).exists():
        return read_run(init_from, which)
    foreign = format_named(name, formats()).read(path)
    for note in foreign.notes:
        logger.info("init_from %s: %s", init_from, note)
    return Restored(step=foreign.step, leaves=flatten({"params": foreign.params, "state": foreign.state}), meta={})


def initialise_from(
    params: Any, state: Any, source: Restored, *, reinitialise: tuple[str, ...] = (), rules: tuple[Any, ...] = ()
) -> Any:
    """(params, state) with the leaves of `source` in place of fresh ones, except those that `reinitialise` names.

    rules: how leaves are made over from the source's (models/leaf_rules.py); they come after `reinitialise`.

    The source's moving average is taken where it has one. reinitialise: regexes over leaf names ('^head'); every leaf
    that no pattern names must be in the source with the same shape and dtype. Each decision is logged.
    Raises SpecError naming the leaves that do not fit, or a pattern that names no leaf. Source: ours.
    """
    prefix = "ema/" if any(name.startswith("ema/") for name in source.leaves) else "params/"
    found = {n.removeprefix(prefix): leaf for n, leaf in source.leaves.items() if n.startswith(prefix)}
    if rules:
        every = [*((pattern, "fresh") for pattern in reinitialise), *rules]
        made, log = transfer(found, params, every, jax.random.key(source.step))
        for line in log:
            logger.info("init_from: %s", line)
        return made, _state_from(state, source)
    fresh = [(pattern, "fresh") for pattern in reinitialise]
    chosen = flatten(match_rules(fresh, params, default="loaded", what="train.reinitialise"))
    wanted = {name: leaf for name, leaf in flatten(params).items() if chosen[name] == "loaded"}
    offered = {name: leaf for name, leaf in found.items() if name in wanted or not _named(name, reinitialise)}
    lines = differences(wanted, offered)
    if lines:
        shown = "\n".join(f"  {line}" for line in lines[:20])
        raise SpecError(
            f"train.init_from: {len(lines)} leaves of the run at step {source.step} do not fit:\n{shown}\n"
            "Give the model the same shape, name these leaves in train.reinitialise, such as ('^head',), or say in train.init_rules "
            "how they are made over."
        )
    for name, choice in chosen.items():
        logger.info("init_from: %s %s %s", name, choice, describe(flatten(params)[name]))
    loaded = _replace(params, {name: np.asarray(found[name]) for name in wanted})
    return loaded, _state_from(state, source)


def _state_from(state: Any, source: Restored) -> Any:
    old_state = {n.removeprefix("state/"): leaf for n, leaf in source.leaves.items() if n.startswith("state/")}
    if differences(state, old_state):
        logger.info("init_from: the router state has another shape and starts anew")
        return state
    return _replace(state, old_state)


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _replace(tree: Any, leaves: dict[str, np.ndarray]) -> Any:
    treedef = jax.tree.structure(tree)
    return jax.tree.unflatten(treedef, [leaves.get(name, leaf) for name, leaf in flatten(tree).items()])
