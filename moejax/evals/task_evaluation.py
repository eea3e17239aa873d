"""What a checkpoint is asked whose answers are no classes: the scores of its task, the routing of its tokens, and its costs.

Source: ours. Classifiers are asked more: `evaluation`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.data.byte_text import KINDS, token_kinds, token_names
from moejax.data.text_dataset import TextInfo
from moejax.evals.evaluation import costs
from moejax.evals.predictions import group_size
from moejax.evals.routing_statistics import LayerStatistics, expert_mass
from moejax.evals.routing_statistics import summarise as summarise_layer

MOST_FREQUENT = 256  # tokens whose shares of experts are written


def evaluate_task(task: Any, params: Any, state: Any, dataset: Any, *, split: str = "test") -> dict[str, Any]:
    """What `evaluation.json` holds: 'split', 'scores' (of `task.summarise`), 'routing' (by block; of language models), 'data'
    and 'summary'.

    routing: as `routing_statistics.summarise`, with tokens in the place of classes and kinds of characters in that of domains:
    the mutual information says, in bits, how much the expert tells about the token that it is given. Padding is left out.
    Tokens that are no bytes have no kinds, and 'classes' and 'expert_by_class' are of the most frequent ones only.
    Raises SpecError for an unknown split.
    """
    is_text = isinstance(dataset.info, TextInfo)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        examples, metrics = task.evaluate_with_metrics(params, state, batch)
        return examples, metrics, _masses(task.model, params, state, batch["tokens"]) if is_text else {}

    gathered: list[Mapping[str, np.ndarray]] = []
    layers: dict[str, LayerStatistics] = {}
    for batch in dataset.eval_batches(split):
        examples, metrics, masses = jax.device_get(step(params, state, dict(batch)))
        gathered.append(examples)
        for name, mass in masses.items():
            _add(layers, name, mass, batch, metrics, num_tokens=dataset.info.vocab_size)
    joined = {name: np.concatenate([part[name] for part in gathered]) for name in gathered[0]} if gathered else {}
    return {
        "split": split,
        "scores": task.summarise(joined or {"mask": np.zeros(0, bool)}, dataset.info),
        "routing": {block: _summary_of(layer, dataset.info) for block, layer in layers.items()},
        "data": dataclasses.asdict(dataset.info) if is_text else {"name": dataset.info.name},
        "summary": costs(task.model, params, state, dataset),
    }


def _summary_of(layer: LayerStatistics, info: TextInfo) -> dict[str, Any]:
    """Of bytes by their kinds; of other tokens, where the vocabulary is large, shares of the most frequent ones alone."""
    if info.kind == "bytes":
        return summarise_layer(layer, class_names=token_names(), domain_names=KINDS, class_domains=token_kinds())
    frequent = sorted(np.argsort(-layer.tokens_by_class, kind="stable")[:MOST_FREQUENT].tolist())
    return summarise_layer(layer, class_names=list(map(str, frequent)), told=frequent)


def _masses(model: Any, params: Any, state: Any, tokens: jax.Array) -> dict[str, jax.Array]:
    """Block -> [B T E]: how much of each token every expert processed."""
    plans = model.apply(params, state, tokens, return_plans=True).plans
    batch, length = tokens.shape
    return {
        name: expert_mass(plan, num_tokens=group_size(plan, batch, length), batch=batch).astype(jnp.float32)
        for name, plan in plans.items()
    }


def _add(
    layers: dict[str, LayerStatistics], name: str, mass: np.ndarray, batch: Any, metrics: Any, *, num_tokens: int
) -> None:
    real = batch["mask"][:, None] & (batch["target"] >= 0)
    layer = layers.setdefault(name, LayerStatistics(np.zeros((num_tokens, mass.shape[-1])), np.zeros(num_tokens)))
    own = {key.split("/", 1)[1]: value for key, value in metrics.items() if key.startswith(f"{name}/")}
    layer.add(mass[real], batch["tokens"][real], own, num_tokens=1)
