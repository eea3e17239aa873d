"""Language modelling: every token of a sequence is to say the next one.

Source: Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2; bits per byte as in Gao et al. 2020, "The Pile",
section 3.1 (the cost of all tokens, over the bytes of the text).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.spec import method
from moejax.tasks.data_checks import check_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Language:
    """model: a method of `models` that takes tokens and returns logits [B T N].

    aux_loss_weight: factor on the sum of the model's own losses (already weighted by their routers).
    """

    model: Any = method("models")
    aux_loss_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.aux_loss_weight < 0:
            raise SpecError(f"task.aux_loss_weight={self.aux_loss_weight} must not be negative.")

    def check_data(self, info: Any) -> None:
        """SpecError when the data set is no text, or its tokens or sequences do not fit the model."""
        check_text(self.model, info)

    def batch_shapes(self, batch_size: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """A training batch as its shapes. length: tokens of a sequence; None: the model's longest."""
        shape = jax.ShapeDtypeStruct((batch_size, length or self.model.max_length), "int32")
        return {"tokens": shape, "target": shape}

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Parameters and router state of the model."""
        return self.model.init(key)

    def loss(
        self, params: Any, state: Any, batch: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], tuple[Any, dict[str, Array]]]:
        """The scalar to minimise, the state after the batch, and metrics.

        batch: 'tokens' and 'target' [B T]; a target below 0 is not counted. The loss is a mean over all tokens counted.
        metrics: 'loss' (nats per token, without the auxiliary ones), 'accuracy' of the likeliest token, 'total_loss', each
        auxiliary loss as 'aux/<name>', and the model's own metrics under their names.
        """
        output = self.model.apply(params, state, batch["tokens"], key=key)
        nll, counted = token_losses(output.logits, batch["target"])
        count = jnp.maximum(jnp.sum(counted.astype(jnp.float32)), 1.0)
        loss = jnp.sum(nll) / count
        auxiliary = sum(output.losses.values(), jnp.zeros((), jnp.float32))
        total = loss + self.aux_loss_weight * auxiliary
        correct = (jnp.argmax(output.logits, axis=-1) == batch["target"]) & counted
        metrics = {
            "loss": loss,
            "accuracy": jnp.sum(correct.astype(jnp.float32)) / count,
            "total_loss": total,
            **{f"aux/{name}": value for name, value in output.losses.items()},
            **output.metrics,
        }
        return total, (output.state, metrics)

    def deterministic_loss(
        self, params: Any, state: Any, batch: Mapping[str, Array], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """`loss` without dropout and router noise; nothing is drawn from the key."""
        del key
        return self.loss(params, state, batch, None)[0]

    def distillation(
        self, params: Any, original: Any, state: Any, batch: Mapping[str, Array], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """KL divergence of the predictions from those of `original`, nats per counted token; nothing is drawn from the key."""
        del key
        before, found = (
            jax.nn.log_softmax(self.model.apply(p, state, batch["tokens"]).logits) for p in (original, params)
        )
        counted = (batch["target"] >= 0).astype(jnp.float32)
        divergence = jnp.sum(jnp.exp(before) * (before - found), axis=-1)
        return jnp.sum(divergence * counted) / jnp.maximum(jnp.sum(counted), 1.0)

    def evaluate(self, params: Any, state: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """One value per sequence, no key; zero where batch['mask'] is False.

        'nll' (nats, the sum over its tokens), 'correct' (how many), 'tokens' (counted), 'bytes' (as batch['bytes'] says; the
        tokens without it), 'mask'.
        """
        return self.evaluate_with_metrics(params, state, batch)[0]

    def evaluate_with_metrics(
        self, params: Any, state: Any, batch: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """`evaluate`, and the model's own metrics over the whole batch, padding included."""
        output = self.model.apply(params, state, batch["tokens"], key=None)
        target = batch["target"]
        mask: Bool[Array, " B"] = batch["mask"] if "mask" in batch else jnp.ones(target.shape[0], bool)
        nll, counted = token_losses(output.logits, target)
        correct = (jnp.argmax(output.logits, axis=-1) == target) & counted
        tokens = jnp.sum(counted.astype(jnp.int32), axis=-1)
        sums = {
            "nll": jnp.sum(nll, axis=-1),
            "correct": jnp.sum(correct.astype(jnp.int32), axis=-1),
            "tokens": tokens,
            "bytes": batch.get("bytes", tokens),
        }
        return {name: jnp.where(mask, v, jnp.zeros((), v.dtype)) for name, v in sums.items()} | {"mask": mask}, (
            output.metrics
        )

    def summarise(self, examples: Mapping[str, np.ndarray], info: Any) -> dict[str, float]:
        """'loss' (nats per token), 'perplexity' (its exponential), 'bits_per_byte' and 'accuracy' over all tokens of a split.

        examples: the arrays of `evaluate`, concatenated. Raises SpecError for an empty split.
        """
        mask = np.asarray(examples["mask"], bool)
        if not mask.any():
            raise SpecError("the split that is evaluated has no examples.")
        nll, correct, tokens, size = (
            float(np.sum(np.asarray(examples[name], np.float64)[mask]))
            for name in ("nll", "correct", "tokens", "bytes")
        )
        return {
            "loss": nll / tokens,
            "perplexity": float(np.exp(nll / tokens)),
            "bits_per_byte": nll / np.log(2.0) / max(size, 1.0),
            "accuracy": correct / tokens,
        }


def token_losses(
    logits: Float[Array, "B T N"], target: Int[Array, "B T"]
) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
    """Cross entropy of every token in nats, 0 where its target is below 0; and which are counted."""
    counted = target >= 0
    index = jnp.where(counted, target, jnp.zeros((), target.dtype))
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), index[..., None], axis=-1)[..., 0]
    return jnp.where(counted, -chosen, jnp.zeros((), chosen.dtype)), counted


EXAMPLES = (Language(model=None), Language(model=None, aux_loss_weight=0.0))
