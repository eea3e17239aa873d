"""Expert banks against the dense bank: one table and one picture of runs that differ in their bank alone.

Source: ours.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.ticker
from matplotlib.figure import Figure

from moejax.evals import figure_style as style
from moejax.evals.comparison import Mean, mean_over_seeds
from moejax.evals.runs import Record

DENSE = "dense"
TITLES = {
    "params": "equal parameters of the bank",
    "flops": "equal activated FLOPs of the bank",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """One bank at one size. matches: what its layer has in common with the dense one ('params', 'flops' or both).

    accuracy: test accuracy by domain ('all' among them), over the seeds. Costs are those of the whole model: FLOPs of the
    forward pass of one picture; milliseconds of a training step, None when not measured.
    """

    bank: str
    matches: tuple[str, ...]
    accuracy: Mapping[str, Mean]
    steps: int
    total_params: int
    activated_params: int
    flops_per_example: int
    milliseconds: float | None = None


def accuracy_by_domain(records: Sequence[Record]) -> dict[str, Mean]:
    """Mean test accuracy over runs that differ in their seed, for every domain that all have."""
    domains = [d for d in records[0].test_accuracy if all(d in record.test_accuracy for record in records)]
    return {domain: mean_over_seeds([record.test_accuracy[domain] for record in records]) for domain in domains}


def to_json(banks: Sequence[Bank], **facts: Any) -> dict[str, Any]:
    """Everything as JSON-able data: `facts` (device, date, command) and the banks."""
    return facts | {"banks": [dataclasses.asdict(bank) for bank in banks]}


def table(banks: Sequence[Bank]) -> str:
    """A Markdown table, a row per bank and size: accuracies in per cent with standard errors, then what the model costs."""
    domains = list(banks[0].accuracy)
    head = ["bank", "equal", *domains, "parameters", "activated", "MFLOPs a picture", "ms a step"]
    rows = [
        [
            bank.bank,
            " and ".join(bank.matches),
            *(_percent(bank.accuracy[domain]) if domain in bank.accuracy else "-" for domain in domains),
            f"{bank.total_params:,}",
            f"{bank.activated_params:,}",
            f"{bank.flops_per_example / 1e6:.2f}",
            "-" if bank.milliseconds is None else f"{bank.milliseconds:.1f}",
        ]
        for bank in banks
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def draw(canvas: Figure, banks: Sequence[Bank]) -> None:
    """Test accuracy of every bank, at equal parameters and at equal activated FLOPs, beside that of the dense bank."""
    shown = [match for match in TITLES if any(match in bank.matches for bank in banks)]
    panels = canvas.subplots(1, len(shown), sharex=True, squeeze=False)[0]
    dense = next((bank.accuracy["all"] for bank in banks if bank.bank == DENSE), None)
    for panel, match in zip(panels, shown, strict=True):
        rows = sorted((bank for bank in banks if match in bank.matches), key=lambda bank: bank.accuracy["all"].mean)
        for place, bank in enumerate(rows):
            mean = bank.accuracy["all"]
            colour = style.model_colour(DENSE) if bank.bank == DENSE else style.OTHER[1]
            panel.errorbar(
                mean.mean, place, xerr=mean.standard_error or 0.0, color=colour, marker="o", capsize=3, linestyle="none"
            )
        if dense is not None:
            panel.axvline(dense.mean, color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        panel.set_yticks(range(len(rows)), [_label(bank) for bank in rows])
        panel.set(title=f"At {TITLES[match]}", xlabel="test accuracy (%), mean and standard error over seeds")
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6))
        style.percent(panel, which="x")


def _label(bank: Bank) -> str:
    time = "" if bank.milliseconds is None else f", {bank.milliseconds:.0f} ms"
    cost = f"{style.compact(bank.total_params)}, {style.compact(bank.flops_per_example)}FLOPs{time}"
    return f"{bank.bank.replace('_', ' ')}\n{cost}"


def _percent(value: Mean) -> str:
    error = "" if value.standard_error is None else f" ± {100 * value.standard_error:.1f}"
    return f"{100 * value.mean:.1f}{error}"
