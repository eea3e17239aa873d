"""A trained classifier under smaller and smaller capacity: what it loses when full experts drop tokens, or send them on.

Source: the comparison of He et al. 2025, "Capacity-Aware Inference", here by the capacity of groups; ours otherwise.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.errors import SpecError
from moejax.core.plans import Plan, TokenChoice
from moejax.dispatch.assignment import realised
from moejax.evals.predictions import fill_padding, group_size

WAYS = ("in order", "drop", "reroute")
COLUMNS = ("capacity_factor", "overflow", "accuracy", "loss", "gate", "max_load", "unserved")


def overflow_table(
    model: Any,
    params: Any,
    state: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    factors: Sequence[float] = (2.0, 1.5, 1.25, 1.0, 0.75, 0.5),
) -> list[dict[str, Any]]:
    """One row without limit ('full'), and one per capacity factor and way: 'in order' (the router's own service), 'drop', 'reroute'.

    accuracy: fraction; loss: nats; gate: sum of a token's served weights, mean over tokens and layers; max_load: most choices that
    one expert serves in one group, over the mean S K / E of a dropless plan; unserved: fraction of tokens without an expert.
    Raises SpecError for a model whose router has no `eval_overflow`. Source: ours.
    """
    moe = model.moe
    if moe is None or not hasattr(moe.router, "eval_overflow"):
        raise SpecError("overflow is compared on models whose router is 'top_k'; this one's is another.")
    kept = list(batches)
    limits: list[tuple[float | None, str]] = [(None, "full")]
    limits += [(factor, way) for factor in factors for way in WAYS]
    return [_row(model, params, state, kept, factor, way) for factor, way in limits]


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as a Markdown table."""
    cells = [[_cell(row[name]) for name in COLUMNS] for row in rows]
    return [
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
        *("| " + " | ".join(c) + " |" for c in cells),
    ]


def limited(model: Any, factor: float | None, way: str) -> Any:
    """The model with this capacity and way of overflow in evaluation."""
    overflow = way if way in ("drop", "reroute") else None
    router = dataclasses.replace(model.moe.router, eval_capacity_factor=factor, eval_overflow=overflow)
    return dataclasses.replace(model, moe=dataclasses.replace(model.moe, router=router))


def _row(model: Any, params: Any, state: Any, batches: list, factor: float | None, way: str) -> dict[str, Any]:
    variant = limited(model, factor, way)

    @jax.jit
    def step(params: Any, state: Any, images: jax.Array) -> tuple[Any, ...]:
        output = variant.apply(params, state, images, return_plans=True)
        sizes = [group_size(plan, len(images), model.num_tokens) for plan in output.plans.values()]
        served = [_served(plan, size) for plan, size in zip(output.plans.values(), sizes, strict=True)]
        return jax.nn.log_softmax(output.logits), [jnp.stack(values) for values in zip(*served, strict=True)]

    correct, losses, served = [], [], []
    for batch in batches:
        images, labels, real = fill_padding(batch)
        log_probs, values = jax.device_get(step(params, state, images))
        correct.append((log_probs.argmax(-1) == labels)[real])
        losses.append(-log_probs[np.arange(len(labels)), labels][real])
        served.append([np.max(values[0]), np.mean(values[1]), np.mean(values[2])])
    load, gate, unserved = np.asarray(served, np.float64).T
    return {
        "capacity_factor": factor,
        "overflow": way,
        "accuracy": float(np.mean(np.concatenate(correct))),
        "loss": float(np.mean(np.concatenate(losses).astype(np.float64))),
        "gate": float(np.mean(gate)),
        "max_load": float(np.max(load)),
        "unserved": float(np.mean(unserved)),
        "pictures": int(sum(len(part) for part in correct)),
    }


def _served(plan: Plan, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The largest load over the mean, the mean weight served per token, and the fraction of tokens without any."""
    assert isinstance(plan, TokenChoice)
    weight = realised(plan, num_tokens=size)
    load = jnp.max(jnp.sum((weight > 0).astype(jnp.float32), axis=1))
    total = jnp.sum(weight, axis=-1)
    mean = size * plan.expert.shape[2] / plan.num_experts
    return load / mean, jnp.mean(total), jnp.mean((total == 0).astype(jnp.float32))


def _cell(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:.4g}"
