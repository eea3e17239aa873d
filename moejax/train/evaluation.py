"""Evaluation of a split during training: one jitted pass, one summary, the routers' metrics averaged."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

Evaluator = Callable[[Any, Any, Iterable[Any]], tuple[dict[str, float], dict[str, np.ndarray]]]


def build_evaluator(task: Any, info: Any, place: Callable[[Any], Any], everywhere: Any = None) -> Evaluator:
    """`summary, router_metrics = evaluate(params, state, batches)`. everywhere: the sharding of results, so that all read them.

    summary: of `task.summarise`. router_metrics: means over the batches without padding (over all when every one has).
    """
    evaluate_batch = jax.jit(task.evaluate_with_metrics, out_shardings=everywhere)

    def evaluate(params: Any, state: Any, batches: Iterable[Any]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        outputs = [evaluate_batch(params, state, place(batch)) for batch in batches]
        examples, metrics = zip(*jax.device_get(outputs), strict=True) if outputs else ([], [])
        whole = [m for e, m in zip(examples, metrics, strict=True) if e["mask"].all()] or list(metrics)
        joined = {name: np.concatenate([e[name] for e in examples]) for name in (examples[0] if examples else {"mask"})}
        summary = task.summarise(joined, info)
        return summary, {name: np.mean([m[name] for m in whole], axis=0) for name in (whole[0] if whole else {})}

    return evaluate
