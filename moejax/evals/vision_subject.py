"""A trained image classifier as a subject of compression.

Source: ours. Deviations: gradients of single examples are of models in which each picture is routed by itself and nobody is
dropped, since a group of one picture has no capacity worth the name.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.compress.collect import Collected, collect
from moejax.core.plans import TokenChoice
from moejax.core.tree import leaf_names
from moejax.data.dataset import Dataset
from moejax.evals.predictions import fill_padding
from moejax.evals.summary import summarise
from moejax.layers.moe import MoE


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionSubject:
    """A model with one tree per layer, and its data. task: of the run, for its loss.

    examples: pictures of a calibration, augmented as in training, in batches of `batch_size`, which are also the `inputs`.
    split: what quality is measured on. num_rows: sampled per batch and expert. passes: for Kronecker factors.
    """

    name: str
    task: Any
    params: Any
    state: Any
    dataset: Dataset
    only: str = r"moe/experts/(up|gate|down)$"
    headline: str = "accuracy"
    examples: int = 512
    batch_size: int = 64
    split: str = "test"
    num_rows: int = 64
    passes: int = 2

    @property
    def num_examples(self) -> int:
        """Of `inputs`."""
        return self.batch_size

    @property
    def inputs(self) -> Any:
        """The first pictures of the split."""
        return self._held_out[0][0][: self.batch_size]

    def collect(self, kinds: Sequence[str], *, seed: int, params: Any = None, only: str | None = None) -> Collected:
        """Statistics over training pictures drawn by `seed`."""
        return collect(
            lambda params, batch: self.apply(params, batch["image"]),
            self.params if params is None else params,
            self._calibration(seed),
            kinds,
            only=only or self.only,
            loss=self.example_loss,
            num_rows=self.num_rows,
            chunk=16,
            passes=self.passes if "kronecker" in kinds else 1,
        )

    def loss(self, params: Any, *, seed: int) -> float:
        """The task's loss on the calibration pictures, a mean."""
        losses = [np.asarray(self._losses(params, batch)) for batch in self._calibration(seed)]
        return float(np.mean(np.concatenate(losses)))

    def example_loss(self, params: Any, batch: Mapping[str, Any]) -> jax.Array:
        """The task's loss of one picture, without the routers' own losses."""
        logits = _picture_by_picture(self.task.model).apply(params, self.state, batch["image"]).logits
        return jnp.sum(self._example_losses(logits, batch))

    def quality(self, params: Any) -> dict[str, float]:
        """'accuracy', 'nll' (nats, of the softmax), 'agreement' with the uncompressed model's answers, and their 'kl'."""
        logits, original = self._logits(params), self._original
        labels = np.concatenate([labels for _, labels, _ in self._held_out])
        log_probs, before = (np.asarray(jax.nn.log_softmax(jnp.asarray(x)), np.float64) for x in (logits, original))
        return {
            "accuracy": float(np.mean(logits.argmax(-1) == labels)),
            "nll": float(-np.mean(log_probs[np.arange(len(labels)), labels])),
            "agreement": float(np.mean(logits.argmax(-1) == original.argmax(-1))),
            "kl": float(np.mean(np.sum(np.exp(before) * (before - log_probs), axis=-1))),
        }

    def apply(self, params: Any, inputs: Any) -> jax.Array:
        """Logits."""
        return self.task.model.apply(params, self.state, inputs).logits

    def flops(self, params: Any) -> int:
        """Of one picture, where routing is even."""
        found = summarise(self.task.model, batch_size=self.batch_size, params=params, state=self.state)
        return found.total("flops_per_example")

    @functools.cached_property
    def _apply(self) -> Any:
        return jax.jit(self.apply)

    @functools.cached_property
    def _losses(self) -> Any:
        return jax.jit(lambda params, batch: self._example_losses(self.apply(params, batch["image"]), batch))

    def _example_losses(self, logits: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
        target = batch["target"] if "target" in batch else jax.nn.one_hot(batch["label"], logits.shape[-1])
        return self.task.example_losses(logits, target)

    def _calibration(self, seed: int) -> list[dict[str, Any]]:
        iterator = self.dataset.train_iterator(seed=seed)
        size = self.dataset.pipeline.batch_size
        return [dict(batch) for batch in itertools.islice(iterator, -(-self.examples // size))]

    @functools.cached_property
    def _held_out(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(pictures, labels of the real ones, which are real) by batch; every batch is full."""
        batches = [fill_padding(batch) for batch in self.dataset.eval_batches(self.split)]
        return [(images, labels[real], real) for images, labels, real in batches]

    @functools.cached_property
    def _original(self) -> np.ndarray:
        return self._logits(self.params)

    def _logits(self, params: Any) -> np.ndarray:
        return np.concatenate([np.asarray(self._apply(params, images))[real] for images, _, real in self._held_out])


def default_weights(params: Any) -> str:
    """The pattern of what is compressed unless said otherwise: the experts, or without any the feed-forward layers."""
    found = any("/moe/experts/" in f"/{name}" for name in leaf_names(params))
    return r"moe/experts/(up|gate|down)$" if found else r"blocks/\d+/feed_forward/(up|gate|down)$"


def _picture_by_picture(model: Any) -> Any:
    moe = getattr(model, "moe", None)
    if not isinstance(moe, MoE):
        return model
    router: Any = moe.router
    if moe.router.plan_type is not TokenChoice:
        return dataclasses.replace(model, moe=dataclasses.replace(moe, group_size=None))
    if hasattr(router, "capacity_factor"):
        router = dataclasses.replace(router, capacity_factor=None, eval_capacity_factor="train")
    # Buffers and not ragged rows: single examples are computed side by side by vmap.
    return dataclasses.replace(model, moe=dataclasses.replace(moe, router=router, group_size=None, dispatch="gather"))
