"""A task whose parameters have another structure than its model gives them: what compression leaves behind.

A run's config tells it under 'structure' (`linear.structure.describe` of the parameters); without one the task is as it is.
Source: ours.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.core.segments import split_segments
from moejax.core.spec import build_method
from moejax.linear.contract import is_leaf
from moejax.linear.dense import Dense
from moejax.linear.structure import abstract, describe


def build_task(config: Mapping[str, Any]) -> Any:
    """The task that a run's config describes, with parameters of config['structure'] where it has one.

    Raises SpecError for a part that cannot be built, and for a structure that is none of this model's.
    """
    task = build_method("tasks", {**config["task"], "model": config["model"]}, path="config.task")
    if config.get("structure") is None:
        return task
    return Restructured(task, json.dumps(config["structure"]))


def plain_task(task: Any) -> Any:
    """The task itself where it is restructured, to be asked for its type."""
    return task.task if isinstance(task, Restructured) else task


def structure_from(workdir: str | pathlib.Path, config: Mapping[str, Any]) -> Any:
    """The structure for a run of `config` that starts from the run in `workdir`; None when that one is not compressed.

    What compression left as the old model had it is as the new model has it, such as a head for other classes.
    Raises SpecError when the old run's config describes no model.
    """
    path = pathlib.Path(workdir) / "config.json"
    source = json.loads(path.read_text()) if path.is_file() else {}
    if source.get("structure") is None:
        return None
    before, now = (_plain_structure({**c, "structure": None}) for c in (source, config))
    return _inherited(source["structure"], before, now)


def _plain_structure(config: Mapping[str, Any]) -> Any:
    task = build_task(config)
    return described(jax.eval_shape(lambda key: split_segments(task.init(key)[0]), jax.random.key(0)))


def _inherited(structure: Any, before: Any, now: Any) -> Any:
    if structure == before and now is not None:
        return now
    if not all(isinstance(node, Mapping) for node in (structure, before, now)) or "$leaf" in structure:
        return structure
    return {name: _inherited(node, before.get(name), now.get(name)) for name, node in structure.items()}


def described(params: Any) -> Any:
    """The structure of `params` as it goes into a config: JSON, and nothing that JSON would change."""
    return json.loads(json.dumps(describe(params)))


@dataclasses.dataclass(frozen=True)
class Restructured:
    """`task` with the parameters that `structure` (JSON) describes. All else is the task's own."""

    task: Any
    structure: str

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Parameters in that structure, and router state, one tree per layer.

        What the model itself has in the same shape (dense kernels and plain arrays) is drawn by it. All other arrays are
        normal with variance 1 / (size of the axis before the last): to be trained, or overwritten by a checkpoint's.
        """
        params, state = (split_segments(tree) for tree in self.task.init(named(key, "task")))
        return _filled(abstract(json.loads(self.structure)), params, named(key, "structure"), ""), state

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


def _filled(wanted: Any, fresh: Any, key: PRNGKeyArray, path: str) -> Any:
    if isinstance(wanted, Mapping):
        if not isinstance(fresh, Mapping):
            raise SpecError(
                f"config.structure: the model has no {path or 'parameters'} with parts inside; is it another model's?"
            )
        lost = [name for name, node in wanted.items() if name not in fresh and isinstance(node, Mapping)]
        if lost:
            raise SpecError(
                f"config.structure names {path}/{lost[0]}, which the model does not have; is it another model's?"
            )
        return {name: _filled(node, fresh.get(name), key, f"{path}/{name}") for name, node in wanted.items()}
    if type(wanted) is Dense and type(fresh) is Dense and wanted.kernel.shape == fresh.kernel.shape:
        return fresh
    if not is_leaf(wanted) and isinstance(fresh, jax.Array) and fresh.shape == wanted.shape:
        return fresh
    return jax.tree_util.tree_map_with_path(
        lambda p, leaf: _draw(named(key, f"{path}{jax.tree_util.keystr(p)}"), leaf), wanted
    )


def _draw(key: PRNGKeyArray, leaf: Any) -> jax.Array:
    depth = leaf.shape[-2] if len(leaf.shape) > 1 else 1
    return (jax.random.normal(key, leaf.shape) / jnp.sqrt(jnp.float32(max(depth, 1)))).astype(leaf.dtype)
