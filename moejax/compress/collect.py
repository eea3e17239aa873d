"""One streaming pass over data: what the methods of compression know about it, per weight and per expert.

Source: ours; what the sums are for, say the methods. The passes of the Kronecker factors: the power iteration for the nearest
Kronecker product (Van Loan and Pitsianis 1993), whose products with the rearranged Fisher matrix are these sums.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.compress.example_gradients import GRADIENT_FIELDS, Sums, build_gradient_sums, normalised
from moejax.compress.observed_params import Slots, make_slots, observed, weights_in
from moejax.compress.statistics import KINDS, LeafStatistics
from moejax.core.errors import SpecError, did_you_mean

Apply = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Collected:
    """statistics: by weight, in float64 on the host; rows [N D] in float32, with zeros behind an expert's last one.

    nbytes: of the statistics, by weight. examples: seen. seconds: of the whole pass, compilation included.
    """

    statistics: dict[str, LeafStatistics]
    nbytes: dict[str, int]
    examples: int
    seconds: float

    def report(self) -> dict[str, Any]:
        """What it took, as plain numbers: 'bytes' of the statistics, 'bytes_by_weight', 'examples', 'seconds'."""
        total = sum(self.nbytes.values())
        return {"bytes": total, "bytes_by_weight": self.nbytes, "examples": self.examples, "seconds": self.seconds}


def collect(
    function: Apply,
    params: Any,
    batches: Iterable[Any],
    kinds: Sequence[str],
    *,
    only: str | None = None,
    loss: Apply | None = None,
    num_rows: int = 64,
    chunk: int = 8,
    passes: int = 1,
    gradient_batches: int | None = None,
) -> Collected:
    """Statistics of `kinds` (`statistics.KINDS`) for the weights whose names `only` is found in; None: for all.

    function: (params, batch) -> arrays that depend on every weight, such as logits; it needs no jit. loss: (params, batch of
    one example) -> scalar, for the gradient kinds; None: `function` is one. batches: trees of arrays with the examples
    in front, on one device or sharded over several.
    num_rows: sampled per batch and expert, kind 'rows'. chunk: examples whose gradients are held at once (memory: chunk
    times the weights). passes: over the data for the kind 'kronecker', each with the factors of the one before; above 1
    `batches` must be a list, or something else that can be read again. gradient_batches: how many batches, from the first
    on, the gradient kinds take, which cost far more; None: all.
    Plain arrays [D F] and [E D F] count as weights where all kinds come from gradients: they do not tell what they multiply.
    Beside a bank of experts whose weights are chosen, the layer's router appears as '.../router': what it read.
    Raises SpecError for unknown kinds, a pattern that finds no weight, no data, a weight that the result does not depend
    on or that is used several times (kind 'rows'), and sums that are not finite.
    """
    begin = time.perf_counter()
    fields = _fields(kinds)
    if gradient_batches is not None and gradient_batches < 1:
        raise SpecError(f"gradient_batches={gradient_batches} must be at least 1, or None for all.")
    if passes < 1 or (passes > 1 and iter(batches) is batches):
        raise SpecError(
            f"passes={passes} needs at least 1, and above 1 batches that can be read again, such as a list."
        )
    gradient_fields = tuple(name for name in fields if name in GRADIENT_FIELDS)
    weights = weights_in(params, only, arrays=gradient_fields == fields)
    slots = make_slots(params, weights, fields, num_rows=num_rows)
    forward = _forward_sums(function) if slots else None
    totals, factors = _Totals(), None
    for number in range(passes if gradient_fields else 1):
        if number:
            factors = normalised(totals.taken("kronecker_in"), totals.taken("kronecker_out"))
            forward, gradient_fields = None, ("kronecker_in", "kronecker_out")
        of_examples = jax.jit(build_gradient_sums(loss or function, tuple(weights), gradient_fields, chunk))
        for index, batch in enumerate(batches):
            found = {} if forward is None else forward(slots, params, batch)
            if gradient_fields and (gradient_batches is None or index < gradient_batches):
                found = _merged(found, of_examples(params, batch, factors))
            if not found:
                break
            totals.add(jax.device_get(found), batch=index)
            totals.examples += 0 if number else _num_examples(batch)
    if not totals.examples:
        raise SpecError("batches gave no example; there is nothing to collect from.")
    statistics = totals.statistics(fields)
    nbytes = {name: sum(np.asarray(a).nbytes for a in jax.tree.leaves(own)) for name, own in statistics.items()}
    return Collected(statistics, nbytes, totals.examples, time.perf_counter() - begin)


def _fields(kinds: Sequence[str]) -> tuple[str, ...]:
    for kind in kinds:
        if kind not in KINDS:
            raise SpecError(f"kind {kind!r} of statistics is unknown.{did_you_mean(kind, KINDS)}")
    if not kinds:
        raise SpecError(f"kinds is empty; name some of {', '.join(KINDS)}.")
    return tuple(dict.fromkeys(field for kind in kinds for field in KINDS[kind]))


def _forward_sums(function: Apply) -> Callable[[Slots, Any, Any], Sums]:
    """(slots, params, batch) -> sums by weight and field."""

    def total(slots: Slots, params: Any, batch: Any) -> jax.Array:
        found = function(observed(params, slots), batch)
        floats = [leaf for leaf in jax.tree.leaves(found) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return sum((jnp.sum(leaf.astype(jnp.float32)) for leaf in floats), jnp.zeros((), jnp.float32))

    return jax.jit(jax.grad(total))


def _merged(one: Sums, other: Sums) -> Sums:
    return {name: one.get(name, {}) | other.get(name, {}) for name in one | other}


class _Totals:
    """Sums over batches, on the host in float64."""

    def __init__(self) -> None:
        self.sums: dict[str, dict[str, Any]] = {}
        self.examples = 0

    def add(self, found: Mapping[str, Mapping[str, np.ndarray]], *, batch: int) -> None:
        for name, own in found.items():
            total = self.sums.setdefault(name, {})
            for field, value in own.items():
                _check(name, field, value, own, batch)
                if field == "rows":
                    total.setdefault(field, []).append(np.asarray(value, np.float32))
                else:
                    total[field] = total.get(field, 0.0) + np.asarray(value, np.float64)

    def taken(self, field: str) -> dict[str, np.ndarray]:
        """The sums of one field by weight; it starts again from nothing."""
        return {name: own.pop(field) for name, own in self.sums.items() if field in own}

    def statistics(self, fields: tuple[str, ...]) -> dict[str, LeafStatistics]:
        done = {}
        for name, own in self.sums.items():
            values = {field: own[field] for field in fields if field in own}
            if "rows" in values:
                values["rows"] = _packed(np.concatenate(values["rows"], axis=-2))
            done[name] = LeafStatistics(**values)
        return done


def _check(name: str, field: str, value: np.ndarray, own: Mapping[str, np.ndarray], batch: int) -> None:
    if not np.isfinite(value).all():
        raise SpecError(
            f"{name}: {field} of batch {batch} is not finite; look for NaN or infinity in the data and in the weights "
            "of this layer and those before it."
        )
    if field == "calls" and not value.all():
        raise SpecError(
            f"{name}: the result of the function does not depend on this weight, so nothing was counted; choose other "
            "weights by `only`, or return what depends on it."
        )
    if field == "rows" and (own["calls"] > 1).any():
        raise SpecError(
            f"{name} is used {int(own['calls'].max())} times in one call of the function, and sampled rows would be added "
            "up; leave out the kind 'rows' for it, or write the function without vmap over examples."
        )


def _packed(rows: np.ndarray) -> np.ndarray:
    """Rows [... N D] with those that are not zero in front, as few as hold all of them."""
    real = (rows != 0).any(-1)
    order = np.argsort(~real, axis=-1, kind="stable")
    longest = max(int(real.sum(-1).max()), 1)
    return np.take_along_axis(rows, order[..., None], axis=-2)[..., :longest, :]


def _num_examples(batch: Any) -> int:
    return int(jax.tree.leaves(batch)[0].shape[0])
