"""A trained language model as a subject of compression: bits per byte on held-out text.

Source: ours.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moejax.evals.task_subject import TaskSubject, one_by_one
from moejax.tasks.language import token_losses


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageSubject(TaskSubject):
    """See `TaskSubject`; an example is a sequence."""

    headline: str = "bits_per_byte"
    reported: tuple[str, ...] = ("loss", "perplexity", "bits_per_byte", "accuracy")
    chunk: int = 4

    @property
    def inputs(self) -> Int[np.ndarray, "B T"]:
        """The tokens of the first sequences of the split, again from the first where it has fewer."""
        rows = np.concatenate([batch["tokens"][batch["mask"]] for batch in self._held_out])
        return rows[np.arange(self.batch_size) % len(rows)]

    def forward(self, params: Any, batch: Mapping[str, Any]) -> Float[Array, "B T N"]:
        """Logits."""
        return self.apply(params, batch["tokens"])

    def example_loss(self, params: Any, batch: Mapping[str, Any]) -> Float[Array, ""]:
        """Nats of one sequence, the sum over its tokens."""
        logits = one_by_one(self.task.model).apply(params, self.state, batch["tokens"]).logits
        return jnp.sum(token_losses(logits, batch["target"])[0])

    def loss(self, params: Any, *, seed: int) -> float:
        """Nats per token on the calibration text, a mean over its batches."""
        return float(np.mean([float(self._losses(params, batch)) for batch in self.calibration(seed)]))

    def quality(self, params: Any) -> dict[str, float]:
        """'loss' (nats per token), 'perplexity', 'bits_per_byte', 'accuracy' of the likeliest token; and against the
        uncompressed model's predictions 'agreement' of the likeliest tokens and 'kl' (nats per token).
        """
        parts = [jax.device_get(self._compared(params, self.params, dict(batch))) for batch in self._held_out]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        tokens = float(np.sum(joined["tokens"], dtype=np.float64))
        against = {name: float(np.sum(joined.pop(name), dtype=np.float64)) / tokens for name in ("agreement", "kl")}
        return self.task.summarise(joined, self.dataset.info) | against

    def apply(self, params: Any, inputs: Int[Array, "B T"]) -> Float[Array, "B T N"]:
        """Logits."""
        return self.task.model.apply(params, self.state, inputs).logits

    @functools.cached_property
    def _held_out(self) -> list[dict[str, np.ndarray]]:
        return list(self.dataset.eval_batches(self.split))

    @functools.cached_property
    def _losses(self) -> Any:
        @jax.jit
        def mean(params: Any, batch: Mapping[str, Array]) -> Float[Array, ""]:
            nll, counted = token_losses(self.forward(params, batch), batch["target"])
            return jnp.sum(nll) / jnp.sum(counted.astype(jnp.float32))

        return mean

    @functools.cached_property
    def _compared(self) -> Any:
        @jax.jit
        def sums(params: Any, original: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
            examples = self.task.evaluate(params, self.state, batch)
            found, before = (self.forward(p, batch) for p in (params, original))
            log_found, log_before = jax.nn.log_softmax(found), jax.nn.log_softmax(before)
            counted = ((batch["target"] >= 0) & batch["mask"][:, None]).astype(jnp.float32)
            agree = (jnp.argmax(found, -1) == jnp.argmax(before, -1)).astype(jnp.float32)
            divergence = jnp.sum(jnp.exp(log_before) * (log_before - log_found), axis=-1)
            return examples | {
                "agreement": jnp.sum(agree * counted, axis=-1),
                "kl": jnp.sum(divergence * counted, axis=-1),
            }

        return sums
