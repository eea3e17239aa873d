"""A trained image classifier as a subject of compression: its answers on held-out pictures.

Source: ours.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.evals.predictions import fill_padding
from moejax.evals.task_subject import TaskSubject, one_by_one


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionSubject(TaskSubject):
    """See `TaskSubject`; an example is a picture, augmented as in training for a calibration."""

    headline: str = "accuracy"
    reported: tuple[str, ...] = ("accuracy", "nll")

    @property
    def inputs(self) -> Any:
        """The first pictures of the split."""
        return self._held_out[0][0][: self.batch_size]

    def forward(self, params: Any, batch: Mapping[str, Any]) -> jax.Array:
        """Logits."""
        return self.apply(params, batch["image"])

    def loss(self, params: Any, *, seed: int) -> float:
        """The task's loss on the calibration pictures, a mean."""
        losses = [np.asarray(self._losses(params, batch)) for batch in self.calibration(seed)]
        return float(np.mean(np.concatenate(losses)))

    def example_loss(self, params: Any, batch: Mapping[str, Any]) -> jax.Array:
        """The task's loss of one picture, without the routers' own losses."""
        logits = one_by_one(self.task.model).apply(params, self.state, batch["image"]).logits
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

    @functools.cached_property
    def _apply(self) -> Any:
        return jax.jit(self.apply)

    @functools.cached_property
    def _losses(self) -> Any:
        return jax.jit(lambda params, batch: self._example_losses(self.apply(params, batch["image"]), batch))

    def _example_losses(self, logits: jax.Array, batch: Mapping[str, Any]) -> jax.Array:
        target = batch["target"] if "target" in batch else jax.nn.one_hot(batch["label"], logits.shape[-1])
        return self.task.example_losses(logits, target)

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
