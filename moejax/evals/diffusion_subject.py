"""A trained diffusion model as a subject of compression: its denoising loss on held-out pictures, with noise that is always the same.

Source: ours. Deviations: gradients of single examples are those of the plain squared error, also where a run trained with a
variational bound or with weights.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.evals.task_subject import TaskSubject, one_by_one


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionSubject(TaskSubject):
    """See `TaskSubject`; an example is a picture (or latent) with its label, a time and noise."""

    headline: str = "loss"
    reported: tuple[str, ...] = ("loss", *(f"loss/quarter_{i}" for i in range(1, 5)))
    chunk: int = 8

    @property
    def inputs(self) -> Float[np.ndarray, "B height width channels"]:
        """The first pictures of the split (again from the first where it has fewer), noised at times of the whole range."""
        return np.asarray(self._noised(self._first))

    def calibration(self, seed: int) -> list[dict[str, Any]]:
        """Batches of training pictures with 'noise' and 'time', as training draws them."""
        key = jax.random.key(seed)
        return [self._drawn(batch, jax.random.fold_in(key, i)) for i, batch in enumerate(super().calibration(seed))]

    def forward(self, params: Any, batch: Mapping[str, Any]) -> Float[Array, "B height width channels"]:
        """Predictions."""
        return self.task.predict(params, self.state, self._noised(batch), batch["time"], batch["label"])

    def example_loss(self, params: Any, batch: Mapping[str, Any]) -> Float[Array, ""]:
        """Squared error of one picture's prediction, the mean over its numbers."""
        alone = dataclasses.replace(self.task_itself, model=one_by_one(self.task.model))
        found = alone.predict(params, self.state, self._noised(batch), batch["time"], batch["label"])
        return jnp.sum(alone.squared_errors(batch["image"], batch["noise"], batch["time"], found))

    def loss(self, params: Any, *, seed: int) -> float:
        """Squared error on the calibration pictures, a mean over its batches."""
        return float(np.mean([float(self._losses(params, batch)) for batch in self.calibration(seed)]))

    def quality(self, params: Any) -> dict[str, float]:
        """'loss', of all times, and 'loss/quarter_1' (least noise) to 'loss/quarter_4', as `tasks.diffusion` evaluates them."""
        parts = [jax.device_get(self._evaluate(params, batch)) for batch in self._held_out]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return self.task.summarise(joined, self.dataset.info)

    def apply(self, params: Any, inputs: Float[Array, "B height width channels"]) -> Float[Array, "B ..."]:
        """Predictions for `inputs`, at their times and labels."""
        return self.task.predict(params, self.state, inputs, self._first["time"], self._first["label"])

    @property
    def task_itself(self) -> Any:
        """The task's own spec, where parameters of another structure are wrapped around it."""
        return getattr(self.task, "task", self.task)

    def _noised(self, batch: Mapping[str, Any]) -> Float[Array, "B height width channels"]:
        return self.task.noised(batch["image"], batch["noise"], batch["time"])

    def _drawn(self, batch: Mapping[str, Any], key: Any) -> dict[str, Any]:
        given = {name: jnp.asarray(batch[name]) for name in ("image", "label")}
        image, noise, time = self.task.training_draws(given, key)
        return {"image": image, "noise": noise, "time": time, "label": given["label"]}

    @functools.cached_property
    def _first(self) -> dict[str, Any]:
        rows = {
            name: np.concatenate([batch[name][batch["mask"]] for batch in self._held_out])
            for name in ("image", "label")
        }
        index = np.arange(self.batch_size) % len(rows["label"])
        with jax.ensure_compile_time_eval():  # also where the first to ask is a function that is being traced
            return self._drawn({name: rows[name][index] for name in rows}, jax.random.key(0))

    @functools.cached_property
    def _held_out(self) -> list[dict[str, np.ndarray]]:
        return [dict(batch) for batch in self.dataset.eval_batches(self.split)]

    @functools.cached_property
    def _evaluate(self) -> Any:
        return jax.jit(lambda params, batch: self.task.evaluate(params, self.state, batch))

    @functools.cached_property
    def _losses(self) -> Any:
        @jax.jit
        def mean(params: Any, batch: Mapping[str, Array]) -> Float[Array, ""]:
            found = self.forward(params, batch)
            return jnp.mean(self.task.squared_errors(batch["image"], batch["noise"], batch["time"], found))

        return mean
