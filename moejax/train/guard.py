"""What happens when a loss or a gradient is not finite: the run stops, or the batch is skipped."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from moejax.train.spec import Train
from moejax.train.step import first_failure

Pending = Sequence[tuple[int, Mapping[str, Any]]]


class NonFiniteError(RuntimeError):
    """A loss or gradient became NaN or infinite."""


def host_values(pending: Pending, params: Any) -> tuple[list[dict[str, float]], list[tuple[int, str]]]:
    """Scalars of the finite steps, for the means of a row; and (step, where) of those that were not finite.

    The only place where the loop waits for the device. params: names the leaves of 'grad_finite'.
    """
    metrics = jax.device_get([metrics for _, metrics in pending])
    fine, failures = [], []
    for (step, _), values in zip(pending, metrics, strict=True):
        where = first_failure(params, values)
        if where is None:
            fine.append({n: float(v) for n, v in values.items() if np.ndim(v) == 0 and not n.startswith("block_")})
        else:
            failures.append((step, where))
    return fine, failures


def check_skips(spec: Train, step: int, where: str, skipped: Sequence[int], last_good: str) -> None:
    """Raises NonFiniteError where the spec stops, or where more than `max_skipped` steps, `step` the last, were skipped."""
    if spec.on_nonfinite == "skip" and len(skipped) <= spec.max_skipped:
        return
    if spec.on_nonfinite == "skip":
        way_out = (
            f"{len(skipped)} steps were skipped ({', '.join(map(str, skipped))}), and train.max_skipped={spec.max_skipped}: "
            "lower optimizer.learning_rate or set optimizer.clip_norm, and run again with --allow-change."
        )
    else:
        way_out = (
            "Lower optimizer.learning_rate or set optimizer.clip_norm, and run again with --allow-change; or leave such batches "
            "out: train.on_nonfinite=skip."
        )
    raise NonFiniteError(f"step {step} is not finite; {where}; {last_good}. {way_out}")
