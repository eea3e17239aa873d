"""Diffusion models against each other: one table and one picture of runs that differ in their model and seed.

Source: ours.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from moejax.evals import figure_style as style
from moejax.evals.comparison import Mean, mean_over_seeds
from moejax.evals.generation import Score

SCORES = ("frechet", "kernel", "precision", "recall", "density", "coverage", "agreement")
FLOOR = "real"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionRun:
    """One run. curve: (steps, training losses). scores: of its samples. Costs are those of the whole model, forward."""

    model: str
    seed: int
    loss: float
    curve: tuple[tuple[int, ...], tuple[float, ...]]
    scores: Score
    total_params: int
    flops_per_example: int


def number(score: Score, name: str) -> float:
    """One of SCORES as a number; NaN for an agreement that was not measured."""
    if name != "agreement":
        return float(getattr(score, name))
    return float("nan") if score.agreement is None else score.agreement.accuracy


def means(runs: Sequence[DiffusionRun]) -> dict[str, dict[str, Mean]]:
    """Model -> 'loss' and every score -> mean over seeds, in the order in which models first appear."""
    found: dict[str, dict[str, Mean]] = {}
    for model in dict.fromkeys(run.model for run in runs):
        own = [run for run in runs if run.model == model]
        found[model] = {"loss": mean_over_seeds([run.loss for run in own])}
        found[model] |= {name: mean_over_seeds([number(run.scores, name) for run in own]) for name in SCORES}
    return found


def table(runs: Sequence[DiffusionRun], floor: Score) -> str:
    """A Markdown table, a row per model: costs, test loss and scores with standard errors over seeds; real pictures last."""
    head = ["model", "parameters", "MFLOPs", "test loss", "FD", "KID x 1000", *SCORES[2:6], "asked class %"]
    rows = []
    for model, mean in means(runs).items():
        run = next(run for run in runs if run.model == model)
        costs = [f"{run.total_params:,}", f"{run.flops_per_example / 1e6:.1f}"]
        rows.append(
            [model, *costs, _cell(mean["loss"], 1.0, 4), *(_cell(mean[name], *_FORMS[name]) for name in SCORES)]
        )
    real = [_cell(Mean(number(floor, name), None, 1), *_FORMS[name]) for name in SCORES]
    rows.append(["real pictures", "", "", "", *real])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


_FORMS: Mapping[str, tuple[float, int]] = {
    "frechet": (1.0, 2), "kernel": (1e3, 1), "precision": (1.0, 3), "recall": (1.0, 3), "density": (1.0, 3),
    "coverage": (1.0, 3), "agreement": (100.0, 1),
}  # fmt: skip
"""Score -> factor and digits in the table."""


def _cell(value: Mean, factor: float, digits: int) -> str:
    error = "" if value.standard_error is None else f" ± {factor * value.standard_error:.{digits}f}"
    return f"{factor * value.mean:.{digits}f}{error}"


def draw(canvas: Figure, runs: Sequence[DiffusionRun], floor: Score) -> None:
    """Training loss, a line per run; Fréchet distance, and precision against recall, a point per run."""
    curves, distances, spread = canvas.subplots(1, 3)
    models = list(dict.fromkeys(run.model for run in runs))
    for place, model in enumerate(models):
        colour, marker = style.model_colour(model), style.model_marker(model)
        for run in (run for run in runs if run.model == model):
            label = model if run.seed == min(r.seed for r in runs if r.model == model) else None
            curves.plot(*run.curve, color=colour, linewidth=1.4, label=label)
            distances.plot(place, run.scores.frechet, color=colour, marker=marker, linestyle="none")
            spread.plot(run.scores.recall, run.scores.precision, color=colour, marker=marker, linestyle="none")
    distances.axhline(floor.frechet, color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    spread.plot(floor.recall, floor.precision, color=style.INK, marker="*", markersize=12, linestyle="none")
    curves.set(title="Training loss", xlabel="training step", yscale="log")
    curves.legend(frameon=False)
    distances.set(title="Fréchet distance (dashed: real)", xticks=range(len(models)))
    distances.set_xticklabels([model.replace("_", "\n") for model in models])
    distances.set_ylim(bottom=0)
    spread.set(title="Samples (star: real)", xlabel="recall", ylabel="precision")


def to_json(runs: Sequence[DiffusionRun], floor: Score, **facts: Any) -> dict[str, Any]:
    """Everything as JSON-able data: `facts`, the runs and the score of real pictures."""
    return facts | {"runs": [dataclasses.asdict(run) for run in runs], FLOOR: floor.to_dict()}
