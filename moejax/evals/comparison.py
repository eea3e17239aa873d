"""Who wins, said honestly: means over seeds, differences with standard errors, and a verdict only where they allow one."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from moejax.evals.runs import Number, Record

LEVEL = 0.05  # chance of naming a winner when all models are equally good, shared by all pairs


@dataclasses.dataclass(frozen=True)
class Mean:
    """mean and standard error over `count` seeds; None for a single seed."""

    mean: float
    standard_error: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """mean(better) - mean(worse), its standard error, and whether it is beyond chance."""

    better: str
    worse: str
    value: float
    standard_error: float
    significant: bool


def mean_over_seeds(values: Sequence[Number]) -> Mean:
    """Mean and its standard error, s / sqrt(n) with s the sample standard deviation."""
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return Mean(float(np.mean(values)), error, len(values))


def by_model(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of every model, in the order in which models first appear."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.model, []).append(record)
    return groups


def accuracies(records: Sequence[Record], domain: str = "all") -> dict[str, Mean]:
    """Test accuracy of every model that has one."""
    result = {}
    for model, group in by_model(records).items():
        if values := [r.test_accuracy[domain] for r in group if domain in r.test_accuracy]:
            result[model] = mean_over_seeds(values)
    return result


def differences(means: Mapping[str, Mean], *, num_test: int | None = None) -> list[Difference]:
    """The best model against every other, largest difference last.

    With at least two seeds of both models: Welch's t test. Otherwise the binomial error of `num_test` test pictures, taken
    as independent, which says nothing about other seeds. The level is divided by the number of all pairs (Bonferroni),
    since the best is chosen after looking. Without either source of error nothing is significant.
    Source: Welch 1947.
    """
    order = sorted(means, key=lambda model: -means[model].mean)
    pairs = max(len(order) * (len(order) - 1) // 2, 1)
    result = []
    for other in order[1:]:
        a, b = means[order[0]], means[other]
        value = a.mean - b.mean
        if a.standard_error is not None and b.standard_error is not None:
            error = math.hypot(a.standard_error, b.standard_error)
            limit = _welch_limit(a, b, LEVEL / pairs)
        elif num_test:
            error = math.sqrt(sum(m.mean * (1 - m.mean) / (m.count * num_test) for m in (a, b)))
            limit = float(special.ndtri(1 - LEVEL / pairs / 2))
        else:
            error, limit = math.nan, math.inf
        result.append(Difference(order[0], other, value, error, bool(value > limit * error)))
    return result


def verdict(
    means: Mapping[str, Mean], labels: Mapping[str, str], *, num_test: int | None = None, what: str = "test accuracy"
) -> str:
    """One or two sentences that say who wins, or that nobody does."""
    if not means:
        return f"No {what} was measured."
    order = sorted(means, key=lambda model: -means[model].mean)
    name = [labels.get(model, model) for model in order]
    if len(order) == 1:
        return f"{name[0]} reaches {_points(means[order[0]])} {what}; there is nothing to compare it with."
    found = differences(means, num_test=num_test)
    single = any(means[model].standard_error is None for model in order)
    beaten = [d for d in found if d.significant]
    closest = found[0]
    known = not math.isnan(closest.standard_error)
    gap = f"{100 * closest.value:.1f}" + (f" ± {100 * closest.standard_error:.1f}" if known else "") + " points"
    if not beaten:
        text = f"No model is distinguishable from the best: {name[0]} leads {name[1]} by {gap} of {what}"
        text += " (difference ± standard error), which is within chance." if known else "; its error is not known."
    elif len(beaten) == len(found):
        text = f"{name[0]} wins with {_points(means[order[0]])} {what}, {gap} above {name[1]} (difference ± standard error)."
    else:
        level = [labels.get(d.worse, d.worse) for d in found if not d.significant]
        worse = [f"{labels.get(d.worse, d.worse)} ({100 * d.value:.1f} ± {100 * d.standard_error:.1f})" for d in beaten]
        text = f"{name[0]} has the highest {what}, {_points(means[order[0]])}, but is not distinguishable from "
        text += f"{_list(level)} ({gap} to the nearest); it is ahead of {_list(worse)} points."
    if single and known:
        text += " There is one seed per model, so these errors cover the choice of test pictures only, not of seeds."
    return text


def _welch_limit(a: Mean, b: Mean, level: float) -> float:
    va, vb = (a.standard_error or 0.0) ** 2, (b.standard_error or 0.0) ** 2
    if va + vb == 0.0:
        return 0.0
    freedom = (va + vb) ** 2 / (va**2 / (a.count - 1) + vb**2 / (b.count - 1))
    return float(special.stdtrit(freedom, 1 - level / 2))


def _points(mean: Mean) -> str:
    error = "" if mean.standard_error is None else f" ± {100 * mean.standard_error:.1f}"
    return f"{100 * mean.mean:.1f}{error} %"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
