"""One pass of a model over a split: probabilities, features and routing, gathered on the host."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.plans import Plan
from moejax.evals.routing_statistics import LayerStatistics, expert_mass

LINKS = ("softmax", "sigmoid")


@dataclasses.dataclass
class Predictions:
    """probabilities [B N] (rows sum to one), labels [B], features [B D], layers: block name -> LayerStatistics."""

    probabilities: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    layers: dict[str, LayerStatistics]

    @property
    def correct(self) -> np.ndarray:
        return self.probabilities.argmax(-1) == self.labels


def predict(
    model: Any,
    params: Any,
    state: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    num_classes: int,
    num_tokens: int,
    link: str = "softmax",
    routing: bool = True,
) -> Predictions:
    """Evaluates `model` on batches of {'image', 'label'[, 'mask']}; rows whose mask is False are not counted.

    num_tokens: tokens per picture T that the blocks see, a class token included.
    link: what the loss made of the logits; sigmoids are divided by their sum, so that both give probabilities.
    Raises SpecError for an unknown link and for a split without examples.
    Source: ours. Deviations: rows that only pad the last batch are filled with its real pictures, so that routing
    metrics of that batch are of real pictures; they enter with the weight of the real ones.
    """
    if link not in LINKS:
        raise SpecError(f"link={link!r} is unknown.{did_you_mean(link, LINKS)}")

    @jax.jit
    def step(params: Any, state: Any, images: jax.Array) -> tuple[Any, ...]:
        output = model.apply(params, state, images, return_plans=routing)
        masses = {
            name: expert_mass(plan, num_tokens=group_size(plan, len(images), num_tokens), batch=len(images)).sum(1)
            for name, plan in output.plans.items()
        }
        return _probabilities(output.logits, link), output.features, masses, output.metrics

    gathered: list[tuple[np.ndarray, ...]] = []
    layers: dict[str, LayerStatistics] = {}
    for batch in batches:
        images, labels, real = fill_padding(batch)
        probabilities, features, masses, metrics = jax.device_get(step(params, state, images))
        gathered.append((probabilities[real], labels[real], features[real]))
        for name, mass in masses.items():
            layer = layers.setdefault(
                name, LayerStatistics(np.zeros((num_classes, mass.shape[-1])), np.zeros(num_classes))
            )
            own = {key.split("/", 1)[1]: value for key, value in metrics.items() if key.startswith(f"{name}/")}
            layer.add(mass[real], labels[real], own, num_tokens=num_tokens)
    if not gathered:
        raise SpecError("predict got no batch; the split is empty.")
    joined = [np.concatenate(parts) for parts in zip(*gathered, strict=True)]
    return Predictions(joined[0], joined[1], joined[2], layers)


def group_size(plan: Plan, batch: int, num_tokens: int) -> int:
    """Tokens per group S of a plan for `batch` sequences of `num_tokens` tokens."""
    groups = jax.tree.leaves(plan)[0].shape[0]
    return batch * num_tokens // groups


def _probabilities(logits: jax.Array, link: str) -> jax.Array:
    if link == "softmax":
        return jax.nn.softmax(logits)
    sigmoids = jax.nn.sigmoid(logits)
    return sigmoids / jnp.sum(sigmoids, axis=-1, keepdims=True)


def fill_padding(batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images and labels with padding rows replaced by real ones, and which rows are real."""
    images, labels = np.asarray(batch["image"]), np.asarray(batch["label"])
    real = np.asarray(batch.get("mask", np.ones(len(labels), bool)), bool)
    if not real.all() and real.any():
        source = np.resize(np.flatnonzero(real), int((~real).sum()))
        images, labels = images.copy(), labels.copy()
        images[~real], labels[~real] = images[source], labels[source]
    return images, labels, real
