"""Healing after compression: a short training of the compressed parameters, towards the original's answers or the labels.

Source: distillation by the Kullback-Leibler divergence of softened distributions, Hinton et al. 2015, "Distilling the
Knowledge in a Neural Network", section 2. Deviations: temperature 1, no mixture with the labels.
"""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from moejax.core.errors import SpecError
from moejax.train.optimizers import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heal:
    """kind: 'distill' takes the original's answers as targets (`distillation` of the task), 'finetune' the run's own loss. steps: updates.

    learning_rate: the peak of a cosine, after a warm-up over the first tenth; AdamW without decay, clipped to norm 1.
    """

    kind: Literal["distill", "finetune"] = "distill"
    steps: int = 200
    learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise SpecError(f"heal.steps={self.steps} must be at least 0 (0: no healing).")


@dataclasses.dataclass(frozen=True)
class Healed:
    """first, last: loss in nats, mean over the first and the last tenth of the steps. seconds: compilation included."""

    params: Any
    first: float
    last: float
    seconds: float


def heal(spec: Heal, task: Any, params: Any, state: Any, original: Any, batches: Iterator[Mapping[str, Any]]) -> Healed:
    """Trains all of `params`, without noise and dropout. original: parameters of the uncompressed model, of any structure.

    Raises SpecError for no steps, and when a loss is not finite.
    """
    if not spec.steps:
        raise SpecError("heal.steps=0 heals nothing; leave the healing out.")
    begin = time.perf_counter()
    optimizer = Optimizer(learning_rate=spec.learning_rate, warmup_steps=max(spec.steps // 10, 1), clip_norm=1.0)
    transformation = optimizer.build(params, spec.steps)

    def loss(params: Any, original: Any, batch: Any, key: Any) -> Float[Array, ""]:
        if spec.kind == "distill":
            return task.distillation(params, original, state, batch, key)
        return task.deterministic_loss(params, state, batch, key)

    @jax.jit
    def step(params: Any, moments: Any, original: Any, batch: Any, key: Any) -> tuple[Any, Any, Array]:
        value, gradients = jax.value_and_grad(loss)(params, original, batch, key)
        updates, moments = transformation.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, value

    moments, values = transformation.init(params), []
    for number in range(spec.steps):
        key = jax.random.key(number)  # what a task must draw, such as the noise of diffusion
        params, moments, value = step(params, moments, original, dict(next(batches)), key)
        values.append(value)
    losses = [float(value) for value in values]
    if not all(map(jnp.isfinite, losses)):
        raise SpecError(f"healing left the finite numbers; lower heal.learning_rate={spec.learning_rate}.")
    tenth = max(spec.steps // 10, 1)
    mean = [sum(part) / len(part) for part in (losses[:tenth], losses[-tenth:])]
    return Healed(params, mean[0], mean[1], time.perf_counter() - begin)
