"""One train step as a pure function: gradient accumulation, update, moving average, signs of health."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.tree import leaf_names
from moejax.train.skipping import all_finite, kept
from moejax.train.state import TrainState

Batch = Mapping[str, Array]
Metrics = dict[str, Array]


def build_step(
    task: Any,
    optimizer: optax.GradientTransformation,
    *,
    rate: optax.Schedule | None = None,
    accumulate_steps: int = 1,
    ema_decay: float = 0.0,
    skip_nonfinite: bool = False,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """`state, metrics = step(state, batch)`, not yet jitted.

    metrics: those of the task, 'grad_norm', 'learning_rate' (where its schedule `rate` is given), and 'grad_finite'
        [leaves] (bool, in the order of `leaf_names(params)`).
    skip_nonfinite: a step with a metric or gradient that is not finite counts, but leaves all else as it was (`skipping.py`).
    Raises SpecError for accumulate_steps < 1 or an ema_decay outside [0, 1). Source: ours.
    """
    if accumulate_steps < 1:
        raise SpecError(f"train.accumulate_steps={accumulate_steps} must be at least 1.")
    if not 0.0 <= ema_decay < 1.0:
        raise SpecError(f"train.ema_decay={ema_decay} must lie in [0, 1); 0 keeps no average.")

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        grads, model_state, metrics = gradients(task, state.params, state.state, batch, key, accumulate_steps)
        squares = jnp.stack([jnp.sum(jnp.square(g.astype(jnp.float32))) for g in jax.tree.leaves(grads)])
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema if state.ema is None else moving_average(state.ema, params, state.step, ema_decay)
        metrics |= {"grad_norm": jnp.sqrt(jnp.sum(squares)), "grad_finite": jnp.isfinite(squares)}
        if rate is not None:
            metrics["learning_rate"] = jnp.asarray(rate(state.step), jnp.float32)
        new: TrainState = dataclasses.replace(
            state, step=state.step + 1, params=params, state=model_state, opt_state=opt_state, ema=ema
        )
        if skip_nonfinite:
            finite = all_finite(metrics)
            parts = ("params", "state", "opt_state", "ema")
            new = dataclasses.replace(new, **{n: kept(finite, getattr(new, n), getattr(state, n)) for n in parts})
        return new, metrics

    return step


def gradients(
    task: Any, params: Any, model_state: Any, batch: Batch, key: PRNGKeyArray, accumulate_steps: int
) -> tuple[Any, Any, Metrics]:
    """Mean gradient, state after the batch and mean metrics over `accumulate_steps` micro batches.

    Micro batch i holds the examples i, i + accumulate_steps, ... (each device keeps its own examples) and draws from
    fold_in(key, i), with or without remat. Router state passes from each micro batch to the next.
    Raises SpecError when the batch does not divide.
    """
    grad = jax.grad(task.loss, has_aux=True)
    if accumulate_steps == 1:
        grads, (model_state, metrics) = grad(params, model_state, batch, jax.random.fold_in(key, 0))
        return grads, model_state, dict(metrics)
    micro = {name: _split(name, array, accumulate_steps) for name, array in batch.items()}

    def body(carry: tuple[Any, Any], inputs: tuple[Array, Batch]) -> tuple[tuple[Any, Any], Metrics]:
        total, current = carry
        index, examples = inputs
        grads, (current, metrics) = grad(params, current, examples, jax.random.fold_in(key, index))
        return (jax.tree.map(jnp.add, total, grads), current), metrics

    zeros = jax.tree.map(jnp.zeros_like, params)
    (total, model_state), metrics = jax.lax.scan(body, (zeros, model_state), (jnp.arange(accumulate_steps), micro))
    grads = jax.tree.map(lambda g: g / accumulate_steps, total)
    return grads, model_state, {name: jnp.mean(values, axis=0) for name, values in metrics.items()}


def moving_average(ema: Any, params: Any, step: Array, decay: float) -> Any:
    """The average: ema + (1 - d) (params - ema) with d = min(decay, (1 + step) / (10 + step)), so that short runs forget the start.

    Source: the warm-up of TensorFlow's ExponentialMovingAverage (`num_updates`).
    """
    now = step.astype(jnp.float32)
    d = jnp.minimum(jnp.float32(decay), (1.0 + now) / (10.0 + now))
    return jax.tree.map(lambda e, p: e + (1.0 - d).astype(e.dtype) * (p - e), ema, params)


def first_failure(params: Any, metrics: Mapping[str, Any]) -> str | None:
    """Where a step left the finite numbers, from host values of its metrics; None for a healthy step.

    Blocks come first, in the order of their names; then the loss, with the first leaf whose gradient is not finite.
    """
    broken = sorted(name for name, value in metrics.items() if name != "grad_finite" and not _finite(value))
    leaves = [name for name, fine in zip(leaf_names(params), metrics["grad_finite"], strict=True) if not fine]
    if not broken and not leaves:
        return None
    blocks = [name for name in broken if name.startswith("block_")]
    where = f"{blocks[0].split('/')[0]} (metric {blocks[0]!r})" if blocks else "no metric of a block"
    grads = f"{len(leaves)} of {len(metrics['grad_finite'])} gradient leaves, first {leaves[0]}" if leaves else "none"
    return f"first block: {where}; gradients: {grads}; loss {float(metrics.get('total_loss', metrics['loss'])):g}"


def _finite(value: Any) -> bool:
    return bool(np.isfinite(value).all())


def _split(name: str, array: Array, parts: int) -> Array:
    if array.shape[0] % parts:
        raise SpecError(
            f"train.accumulate_steps={parts} does not divide the batch of {array.shape[0]} ({name}); "
            f"choose a divisor of {array.shape[0]}."
        )
    return array.reshape(array.shape[0] // parts, parts, *array.shape[1:]).swapaxes(0, 1)
