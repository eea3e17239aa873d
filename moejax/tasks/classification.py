"""Image classification: one label per picture.

Source: softmax loss with label smoothing, Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7;
sigmoid loss, Beyer et al. 2020, "Are we done with ImageNet?", section 5 (V-MoE pre-trains with it).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.spec import method
from moejax.tasks.data_checks import check_pictures, picture_shapes

CROSS_ENTROPIES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification:
    """model: any method of `models` that returns a ModelOutput. cross_entropy: 'softmax' or 'sigmoid'.

    label_smoothing: share of the target that is spread evenly over all classes, in [0, 1).
    aux_loss_weight: factor on the sum of the model's own losses (already weighted by their routers).
    """

    model: Any = method("models")
    cross_entropy: str = "softmax"
    label_smoothing: float = 0.0
    aux_loss_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.cross_entropy not in CROSS_ENTROPIES:
            raise SpecError(
                f"task.cross_entropy={self.cross_entropy!r} is unknown.{did_you_mean(self.cross_entropy, CROSS_ENTROPIES)}"
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise SpecError(f"task.label_smoothing={self.label_smoothing} must lie in [0, 1).")
        if self.aux_loss_weight < 0:
            raise SpecError(f"task.aux_loss_weight={self.aux_loss_weight} must not be negative.")

    def check_data(self, info: Any) -> None:
        """SpecError when the data set is not of pictures, or their size or classes are not the model's."""
        check_pictures(self.model, info)

    def batch_shapes(self, batch_size: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """A training batch of pictures with labels, as its shapes. length: of text; not used."""
        del length
        return picture_shapes(self.model, batch_size)

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Parameters and router state of the model."""
        return self.model.init(key)

    def loss(
        self, params: Any, state: Any, batch: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], tuple[Any, dict[str, Array]]]:
        """The scalar to minimise, the state after the batch, and metrics.

        batch: 'image' [B height width channels], 'label' [B], and 'target' [B N] where pictures were mixed.
        metrics: 'loss' (without the auxiliary ones), 'accuracy' against 'label', 'total_loss', each auxiliary loss by
        its name as 'aux/<name>', and the model's own metrics under their names.
        """
        output = self.model.apply(params, state, batch["image"], key=key)
        num_classes = output.logits.shape[-1]
        target = batch["target"] if "target" in batch else jax.nn.one_hot(batch["label"], num_classes)
        loss = jnp.mean(self.example_losses(output.logits, target))
        auxiliary = sum(output.losses.values(), jnp.zeros((), jnp.float32))
        total = loss + self.aux_loss_weight * auxiliary
        correct = jnp.argmax(output.logits, axis=-1) == batch["label"]
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(correct.astype(jnp.float32)),
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
        """KL divergence of the answers from those of `original`, nats per picture; nothing is drawn from the key."""
        del key
        before, found = (
            jax.nn.log_softmax(self.model.apply(p, state, batch["image"]).logits) for p in (original, params)
        )
        return jnp.mean(jnp.sum(jnp.exp(before) * (before - found), axis=-1))

    def example_losses(self, logits: Float[Array, "B N"], target: Float[Array, "B N"]) -> Float[Array, " B"]:
        """Cross entropy of each example in nats, smoothed. Sigmoid: summed over the classes."""
        target = target.astype(jnp.float32)
        if self.label_smoothing:
            target = target * (1.0 - self.label_smoothing) + self.label_smoothing / target.shape[-1]
        if self.cross_entropy == "softmax":
            return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
        terms = target * jax.nn.log_sigmoid(logits) + (1.0 - target) * jax.nn.log_sigmoid(-logits)
        return -jnp.sum(terms, axis=-1)

    def evaluate(self, params: Any, state: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """One value per example, no key, no smoothing; zero (and -1 for classes) where batch['mask'] is False.

        'correct', 'nll' (nats, of the softmax), 'probability' (of the predicted class), 'prediction', 'label', 'mask'.
        """
        return self.evaluate_with_metrics(params, state, batch)[0]

    def evaluate_with_metrics(
        self, params: Any, state: Any, batch: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """`evaluate`, and the model's own metrics over the whole batch, padding included."""
        output = self.model.apply(params, state, batch["image"], key=None)
        label: Int[Array, " B"] = batch["label"]
        mask: Bool[Array, " B"] = batch["mask"] if "mask" in batch else jnp.ones(label.shape, bool)
        log_probs = jax.nn.log_softmax(output.logits)
        prediction = jnp.argmax(output.logits, axis=-1).astype(label.dtype)
        nll = -jnp.take_along_axis(log_probs, label[:, None], axis=-1)[:, 0]
        zero, none = jnp.zeros((), jnp.float32), -jnp.ones((), label.dtype)
        examples = {
            "correct": jnp.where(mask, (prediction == label).astype(jnp.float32), zero),
            "nll": jnp.where(mask, nll, zero),
            "probability": jnp.where(mask, jnp.exp(jnp.max(log_probs, axis=-1)), zero),
            "prediction": jnp.where(mask, prediction, none),
            "label": jnp.where(mask, label, none),
            "mask": mask,
        }
        return examples, output.metrics

    def summarise(self, examples: Mapping[str, np.ndarray], info: Any) -> dict[str, float]:
        """'accuracy' and 'loss' over all examples, and 'accuracy/<domain>' for data with more than one domain.

        examples: the arrays of `evaluate`, concatenated over a split. info: a DatasetInfo. Domains come from the class.
        """
        mask = np.asarray(examples["mask"], bool)
        if not mask.any():
            raise SpecError("the split that is evaluated has no examples.")
        correct, label = (np.asarray(examples[name])[mask] for name in ("correct", "label"))
        summary = {
            "accuracy": float(correct.astype(np.float64).mean()),
            "loss": float(np.asarray(examples["nll"])[mask].astype(np.float64).mean()),
        }
        if len(info.domain_names) > 1:
            domain = np.asarray(info.class_domains)[label]
            for index, name in enumerate(info.domain_names):
                if (domain == index).any():
                    summary[f"accuracy/{name}"] = float(correct[domain == index].astype(np.float64).mean())
        return summary


EXAMPLES = (Classification(model=None), Classification(model=None, cross_entropy="sigmoid", label_smoothing=0.1))
