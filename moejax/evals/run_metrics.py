"""By what the runs of a task are judged, and their results as means over seeds. Source: ours."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from moejax.evals.comparison import Mean, differences, mean_over_seeds
from moejax.evals.run_folders import FINISHED, status
from moejax.evals.runs import Run, series

CANDIDATES = ("valid/accuracy", "valid/bits_per_byte", "valid/loss", "train/loss")
LARGER = ("accuracy", "recall", "precision")  # last parts of names of which more is better
Groups = Mapping[str, Sequence[Run]]


@dataclasses.dataclass(frozen=True)
class Metric:
    """name: of a row entry. higher: whether more is better. fraction: shown in per cent."""

    name: str
    higher: bool
    fraction: bool

    @classmethod
    def of(cls, name: str, *, higher: bool | None = None) -> "Metric":
        """A metric by its name alone."""
        base = name.partition("/")[2].partition("/")[0]
        return cls(name, base in LARGER if higher is None else higher, base in LARGER)

    @property
    def title(self) -> str:
        """'valid/bits_per_byte' -> 'validation bits per byte'."""
        split, _, rest = self.name.partition("/")
        return f"{ {'valid': 'validation', 'train': 'training'}.get(split, split) } {rest.replace('_', ' ').replace('/', ', ')}"

    def shown(self, mean: Mean | None) -> str:
        """'79.5 ± 0.3' in per cent, or '0.2952 ± 0.0014'; a dash for None."""
        if mean is None:
            return "–"
        if self.fraction:
            error = "" if mean.standard_error is None else f" ± {100 * mean.standard_error:.1f}"
            return f"{100 * mean.mean:.1f}{error}"
        return f"{mean.mean:.4g}" + ("" if mean.standard_error is None else f" ± {mean.standard_error:.2g}")


def judged_by(groups: Groups) -> Metric | None:
    """What train.best_metric names, where a run has it; else the first common measure that one has; None without any row."""
    runs = [run for group in groups.values() for run in group]
    for run in runs:
        train = run.config.get("train", {})
        name = train.get("best_metric", "valid/accuracy")
        if any(name in row for row in run.rows):
            return Metric.of(name, higher=train.get("best_mode", "max") == "max")
    return next((Metric.of(name) for name in CANDIDATES if any(series(run.rows, name)[0] for run in runs)), None)


def metrics_of_tests(groups: Groups) -> list[Metric]:
    """Of the test results of finished runs, in the order of the rows; parts of a split ('test/accuracy/digits') come last."""
    names: dict[str, None] = {}
    for run in (run for group in groups.values() for run in group if status(run).state == FINISHED):
        last = run.rows[-1]
        names |= {n: None for n, v in last.items() if n.startswith("test/") and isinstance(v, float)}
    return [Metric.of(name) for name in sorted(names, key=lambda name: name.count("/"))]


def means(groups: Groups, metric: Metric) -> dict[str, Mean]:
    """Mean and standard error over the seeds of each group that have the metric.

    A test result counts for finished runs alone; of other metrics the last value of a finished run counts.
    """
    found = {}
    for name, group in groups.items():
        finished = [run for run in group if status(run).state == FINISHED]
        values = [series(run.rows, metric.name)[1][-1:] for run in finished]
        if kept := [v[0] for v in values if v and isinstance(v[0], (int, float)) and math.isfinite(v[0])]:
            found[name] = mean_over_seeds(kept)
    return found


def outcome(found: Mapping[str, Mean], metric: Metric, labels: Mapping[str, str]) -> str:
    """Who is ahead in a metric and whether that is more than chance over seeds: one or two sentences."""
    if not found:
        return f"No finished run has a {metric.title}."
    order = sorted(found, key=lambda name: found[name].mean, reverse=metric.higher)
    unit = " %" if metric.fraction else ""
    best = f"{labels[order[0]]} has the {'highest' if metric.higher else 'lowest'} {metric.title}, {metric.shown(found[order[0]])}{unit}"
    if len(order) == 1:
        return f"{best}; there is nothing to compare it with."
    if any(found[name].standard_error is None for name in order):
        return f"{best}. Not every model has two seeds: whether that is more than chance cannot be said."
    sign = 1.0 if metric.higher else -1.0
    turned = {name: Mean(sign * mean.mean, mean.standard_error, mean.count) for name, mean in found.items()}
    level = [labels[one.worse] for one in differences(turned) if not one.significant]
    if level:
        return f"{best}, but is not distinguishable from {', '.join(level)} (Welch's t test over seeds, 5 % over all pairs)."
    return f"{best}, beyond chance (Welch's t test over seeds, 5 % over all pairs)."
