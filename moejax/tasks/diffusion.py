"""Diffusion and flow matching: a network learns what the noise in a picture is, at every level of it, given the class.

Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", algorithm 1; Lipman et al. 2023, "Flow Matching for
Generative Modeling", equation 23. The pieces are those of moejax/diffusion.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.outputs import DenoiserOutput
from moejax.core.rng import maybe_named, named
from moejax.core.spec import method
from moejax.diffusion import losses
from moejax.diffusion.contract import Denoiser, Process
from moejax.diffusion.guidance import Guidance, guided
from moejax.diffusion.noise_assignment import NoiseAssignment
from moejax.diffusion.predictions import check_prediction, denoised, noised
from moejax.diffusion.processes.ddpm import DDPM
from moejax.diffusion.processes.rectified_flow import RectifiedFlow
from moejax.tasks.data_checks import check_pictures, picture_shapes

QUARTERS = 4  # an evaluation asks about each example once in every quarter of the times


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffusion:
    """model: a method of `models` that returns a DenoiserOutput. process, prediction: what is noised how, and learned.

    loss_type: 'simple' (squared error) | 'hybrid' (for models with a learned variance). bound_weight: of the variational
    bound in 'hybrid'. min_snr_gamma: clips the loss weights; None for none. noise: which noise a picture is mixed with.
    aux_loss_weight: factor on the routers' losses.
    """

    model: Any = method("models")
    process: Process = method("diffusion.processes")
    prediction: str = "flow"
    loss_type: str = "simple"
    bound_weight: float = 0.001
    min_snr_gamma: float | None = None
    noise: NoiseAssignment = NoiseAssignment()
    aux_loss_weight: float = 1.0

    def __post_init__(self) -> None:
        check_prediction(self.prediction, self.process)
        for name in ("aux_loss_weight", "bound_weight"):
            if getattr(self, name) < 0:
                raise SpecError(f"task.{name}={getattr(self, name)} must not be negative.")
        if self.model is not None:
            losses.check_loss(self.loss_type, learns_variance=self.model.learn_variance)

    def check_data(self, info: Any) -> None:
        """SpecError when the data set is not of pictures, or their size or classes are not the model's."""
        check_pictures(self.model, info)

    def batch_shapes(self, batch_size: int, length: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """A training batch of pictures (or latents) with labels, as its shapes. length: of text; not used."""
        del length
        return picture_shapes(self.model, batch_size)

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Parameters and router state of the model."""
        return self.model.init(key)

    def loss(
        self, params: Any, state: Any, batch: Mapping[str, Array], key: PRNGKeyArray | None
    ) -> tuple[Float[Array, ""], tuple[Any, dict[str, Array]]]:
        """The scalar to minimise, the state after the batch, and metrics.

        batch: 'image' [B height width channels] in [-1, 1] (or latents), 'label' [B]. Without a key times and noise are
        always the same, and no label is dropped.
        metrics: 'loss' (without the auxiliary ones), 'total_loss', each auxiliary loss as 'aux/<name>', the model's own.
        """
        x0, noise, t = self.training_draws(batch, jax.random.key(0) if key is None else key)
        x = noised(self.process, x0, noise, t)
        output = self._ask(params, state, x, t, batch["label"], key=maybe_named(key, "model"))
        loss = jnp.mean(self._example_losses(output, x0, noise, t))
        auxiliary = sum(output.losses.values(), jnp.zeros((), jnp.float32))
        total = loss + self.aux_loss_weight * auxiliary
        metrics = {
            "loss": loss,
            "total_loss": total,
            **{f"aux/{name}": value for name, value in output.losses.items()},
            **output.metrics,
        }
        return total, (output.state, metrics)

    def deterministic_loss(
        self, params: Any, state: Any, batch: Mapping[str, Array], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """`loss` without dropout, dropped labels and router noise; times and noise are drawn from the key."""
        x0, noise, t = self.training_draws(batch, key)
        output = self._ask(params, state, noised(self.process, x0, noise, t), t, batch["label"])
        auxiliary = sum(output.losses.values(), jnp.zeros((), jnp.float32))
        return jnp.mean(self._example_losses(output, x0, noise, t)) + self.aux_loss_weight * auxiliary

    def distillation(
        self, params: Any, original: Any, state: Any, batch: Mapping[str, Array], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """Mean squared distance of the predictions from those of `original`, at times and noise drawn from the key."""
        x0, noise, t = self.training_draws(batch, key)
        x = noised(self.process, x0, noise, t)
        before, found = (
            self._ask(p, state, x, t, batch["label"]).prediction.astype(jnp.float32) for p in (original, params)
        )
        return jnp.mean(jnp.square(found - before))

    def training_draws(
        self, batch: Mapping[str, Array], key: PRNGKeyArray
    ) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."], Float[Array, " B"]]:
        """Pictures, the noise to mix each with, and the time of each."""
        x0 = batch["image"].astype(jnp.float32)
        t = self.process.sample_time(named(key, "time"), (x0.shape[0],))
        return x0, self.noise.draw(named(key, "noise"), x0), t

    def noised(
        self, x0: Float[Array, "B ..."], noise: Float[Array, "B ..."], t: Float[Array, " B"]
    ) -> Float[Array, "B ..."]:
        """Pictures mixed with noise as the process does at times t."""
        return noised(self.process, x0, noise, t)

    def predict(
        self, params: Any, state: Any, x: Float[Array, "B ..."], t: Float[Array, " B"], label: Int[Array, " B"]
    ) -> Float[Array, "B ..."]:
        """What the network says of noised pictures x at times t, without a key."""
        return self._ask(params, state, x, t, label).prediction

    def squared_errors(
        self,
        x0: Float[Array, "B ..."],
        noise: Float[Array, "B ..."],
        t: Float[Array, " B"],
        found: Float[Array, "B ..."],
    ) -> Float[Array, " B"]:
        """Of the predictions `found` for each picture, the mean over its numbers, without weights."""
        return losses.simple(self.prediction, self.process, x0, noise, t, found)

    def _ask(
        self, params: Any, state: Any, x: Float[Array, "B ..."], t: Float[Array, " B"], label: Int[Array, " B"], *,
        key: PRNGKeyArray | None = None,
    ) -> DenoiserOutput:  # fmt: skip
        return self.model.apply(params, state, x, self.process.model_time(t), label, key=key)

    def _example_losses(
        self, output: DenoiserOutput, x0: Float[Array, "B ..."], noise: Float[Array, "B ..."], t: Float[Array, " B"]
    ) -> Float[Array, " B"]:
        asked = (self.prediction, self.process, x0, noise, t, output.prediction)
        if self.loss_type == "simple":
            error = losses.simple(*asked)
        else:
            error = losses.hybrid(*asked, output.variance, bound_weight=self.bound_weight)
        if self.min_snr_gamma is None:
            return error
        return error * losses.min_snr_weight(self.process, self.prediction, t, self.min_snr_gamma)

    def evaluate(self, params: Any, state: Any, batch: Mapping[str, Array]) -> dict[str, Array]:
        """'loss' [B 4] of each example in the four quarters of the times, zero where batch['mask'] is False; 'label', 'mask'.

        Times and noise are the same at every evaluation: the plain squared error of the prediction, without weights.
        """
        return self.evaluate_with_metrics(params, state, batch)[0]

    def evaluate_with_metrics(
        self, params: Any, state: Any, batch: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """`evaluate`, and the model's own metrics in the second quarter of the times, padding included."""
        x0, label = batch["image"].astype(jnp.float32), batch["label"]
        mask: Bool[Array, " B"] = batch["mask"] if "mask" in batch else jnp.ones(label.shape, bool)
        columns: list[Array] = []
        metrics: dict[str, Array] = {}
        for quarter in range(QUARTERS):
            t, noise = self._evaluation_draws(quarter, x0)
            output = self._ask(params, state, noised(self.process, x0, noise, t), t, label)
            columns.append(losses.simple(self.prediction, self.process, x0, noise, t, output.prediction))
            metrics = output.metrics if quarter == 1 else metrics
        errors = jnp.where(mask[:, None], jnp.stack(columns, axis=1), jnp.zeros((), jnp.float32))
        label = jnp.where(mask, label, -jnp.ones((), label.dtype))
        return {"loss": errors, "label": label, "mask": mask}, metrics

    def _evaluation_draws(
        self, quarter: int, x0: Float[Array, "B ..."]
    ) -> tuple[Float[Array, " B"], Float[Array, "B ..."]]:
        """Times of a quarter, evenly spread over the batch in a fixed disorder, and noise."""
        key = jax.random.fold_in(jax.random.key(0), quarter)
        count = x0.shape[0]
        share = (jax.random.permutation(named(key, "time"), count).astype(jnp.float32) + 0.5) / count
        low, high = self.process.min_time, self.process.max_time
        t = low + (high - low) * (quarter + share) / QUARTERS
        return t.astype(jnp.float32), jax.random.normal(named(key, "noise"), x0.shape, jnp.float32)

    def summarise(self, examples: Mapping[str, np.ndarray], info: Any) -> dict[str, float]:
        """'loss' over all examples and times, 'loss/quarter_1' (least noise) to 'loss/quarter_4'.

        examples: the arrays of `evaluate`, concatenated over a split. Raises SpecError for an empty split.
        """
        mask = np.asarray(examples["mask"], bool)
        if not mask.any():
            raise SpecError("the split that is evaluated has no examples.")
        quarters = np.asarray(examples["loss"], np.float64)[mask].mean(axis=0)
        return {"loss": float(quarters.mean())} | {f"loss/quarter_{i + 1}": float(q) for i, q in enumerate(quarters)}

    # Sampling.

    def denoiser(
        self, params: Any, state: Any, label: Int[Array, " B"], *, guidance: Guidance | None = None
    ) -> Denoiser:
        """What the network says about x_t for pictures of these classes, with classifier-free guidance where given.

        Raises SpecError for known labels out of range, and for guidance with a model trained without label dropout.
        """
        self.check_labels(label)
        conditional = self._conditional(params, state, label)
        if guidance is None or guidance.scale == 1.0:
            return conditional
        if self.model.label_dropout == 0.0:
            raise SpecError(
                f"guidance scale={guidance.scale} needs a model that was trained with label dropout; this one has "
                "label_dropout=0. Use scale 1, or train with model.label_dropout=0.1."
            )
        null = jnp.full(label.shape, self.model.num_classes, label.dtype)
        return guided(conditional, self._conditional(params, state, null), guidance, self.process)

    def _conditional(self, params: Any, state: Any, label: Int[Array, " B"]) -> Denoiser:
        def ask(x: Float[Array, "B ..."], t: Float[Array, " B"]) -> Any:
            output = self._ask(params, state, x, t, label)
            return denoised(self.prediction, self.process, x, t, output.prediction, output.variance)

        return ask

    def check_labels(self, label: Int[Array, " B"]) -> None:
        """Raises SpecError when a known label is no class."""
        if isinstance(label, jax.core.Tracer):
            return
        wrong = [int(one) for one in np.asarray(label) if not 0 <= one < self.model.num_classes]
        if wrong:
            raise SpecError(
                f"label {wrong[0]} is no class: the model has num_classes={self.model.num_classes}, from 0."
            )


EXAMPLES = (
    Diffusion(model=None, process=RectifiedFlow()),
    Diffusion(
        model=None, process=DDPM(), prediction="noise", min_snr_gamma=5.0, noise=NoiseAssignment(method="linear")
    ),
)
