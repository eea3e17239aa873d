"""Gates in a trained model beside what theory says of their estimation: one table. Source: ours."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from moejax.evals.comparison import Mean

RATES: Mapping[str, str] = {
    "softmax": "all n^(-1/2) with the right number of experts; one too many: b, gate n^(-1/8), a, variance n^(-1/4)",
    "linear": "as softmax, and consistent with one expert too many only if it opens as many as its largest cells hold",
    "temperature": "tanh: n^(-1/2), n^(-1/4) with one too many; without an activation slower than any power",
    "sigmoid": "n^(-1/2) of experts when gate kernels are not zero, also with one expert too many",
    "cosine": "slower than any power, from an interaction of the norms; perturbed: n^(-1/2) and n^(-1/4)",
    "laplace": "mass n^(-1/2); one too many: gate and a n^(-1/4), b n^(-1/8), variance n^(-1/4)",
    "gaussian": "n^(-1/2); one too many: location-scale rates of the cell, a n^(-1/4)",
}
"""Of softmax-gated linear experts with Gaussian noise, by gate. Source: Nguyen et al. 2023 (softmax), 2024 (top-K; temperature;
sigmoid; cosine), Han et al. 2024 (Laplace), Nguyen et al. 2024 (Gaussian-gated)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GateRow:
    """One gate: test accuracy by domain over the seeds, and FLOPs of a picture's forward pass."""

    gate: str
    accuracy: Mapping[str, Mean]
    steps: int
    flops_per_example: int


def table(rows: Sequence[GateRow]) -> str:
    """Markdown: accuracies in per cent with standard errors over seeds, FLOPs, and the theoretical rate."""
    domains = list(rows[0].accuracy)
    head = ["gate", *domains, "MFLOPs a picture", "estimation of a Gaussian MoE with this gate (theory)"]
    lines = [head, ["-" * len(name) for name in head]]
    lines += [
        [row.gate, *map(_percent, row.accuracy.values()), f"{row.flops_per_example / 1e6:.2f}", RATES[row.gate]]
        for row in rows
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def to_json(rows: Sequence[GateRow], **facts: Any) -> dict[str, Any]:
    """Everything as JSON-able data."""
    return facts | {"gates": [dataclasses.asdict(row) | {"rate": RATES[row.gate]} for row in rows]}


def _percent(mean: Mean) -> str:
    error = "" if mean.standard_error is None else f" ± {100 * mean.standard_error:.1f}"
    return f"{100 * mean.mean:.1f}{error}"
