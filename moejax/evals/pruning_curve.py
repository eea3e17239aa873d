"""What a classifier loses as experts are given up in one order or another: accuracy over the share of pruned experts.

Source: the comparison of Chowdhury et al. 2024 ("A provably effective method for pruning experts in fine-tuned sparse
    mixture-of-experts"), section 5: their order against pruning at random and by use.
Deviations: no fine-tuning after pruning; every layer loses as many experts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from moejax.compress.expert_pruning import pruned
from moejax.core.errors import SpecError
from moejax.core.segments import split_segments
from moejax.evals.predictions import fill_padding
from moejax.theory.findings import Chart, Curve

Order = Mapping[str, Int[np.ndarray, "E"]]
"""By layer: all experts, from the first to be given up to the last."""
COLUMNS = ("order", "pruned", "share", "accuracy", "spread", "loss")


def pruning_curve(
    model: Any,
    params: Any,
    state: Any,
    batches: Sequence[Mapping[str, np.ndarray]],
    orders: Mapping[str, Sequence[Order]],
    counts: Sequence[int],
) -> list[dict[str, Any]]:
    """A row for every number of pruned experts per layer (`counts`, 0 first) and every name of `orders`: the mean over its draws.

    accuracy: a fraction; spread: standard deviation over the draws (None: one draw); loss: nats. Raises SpecError for counts that do
    not begin with 0 or do not ascend, for orders without a draw, and as `expert_pruning.pruned`.
    """
    if not counts or list(counts) != sorted(set(counts)) or counts[0] != 0 or not all(orders.values()):
        raise SpecError(f"counts={list(counts)} must ascend from 0, and every order needs a draw.")
    filled = [fill_padding(batch) for batch in batches]
    rows = []
    for count in counts:
        smaller, scored = model, None
        for name, draws in orders.items():
            found = []
            for order in draws if count else draws[:1]:
                kept = {layer: np.sort(np.asarray(experts)[count:]) for layer, experts in order.items()}
                smaller, own = pruned(model, params, state, kept)
                scored = scored or jax.jit(lambda p, s, x, m=smaller: jax.nn.log_softmax(m.apply(p, s, x).logits))
                found.append(_score(scored, own, split_segments(state), filled))
            accuracy, loss = np.array(found).T
            total = len(next(iter(draws[0].values())))
            rows.append({
                "order": name, "pruned": count, "share": count / total, "accuracy": float(accuracy.mean()),
                "spread": float(accuracy.std(ddof=1)) if len(found) > 1 else None, "loss": float(loss.mean()),
                "draws": len(found), "pictures": int(sum(real.sum() for *_, real in filled)),
            })  # fmt: skip
    return rows


def chart(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Accuracy over the share of pruned experts, a curve for every order."""
    curves = []
    for name in dict.fromkeys(row["order"] for row in rows):
        own = [row for row in rows if row["order"] == name]
        x, y = (np.array([row[column] for row in own], np.float64) for column in ("share", "accuracy"))
        spread = np.array([row["spread"] or 0.0 for row in own])
        curves.append(Curve(label=name, x=x, y=y, low=y - spread, high=y + spread))
    return Chart(curves=tuple(curves), x_label="share of pruned experts", y_label="test accuracy", logarithmic=False)


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as a Markdown table."""
    cells = [[_cell(row[name]) for name in COLUMNS] for row in rows]
    head = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return head + ["| " + " | ".join(line) + " |" for line in cells]


def _score(scored: Any, params: Any, state: Any, batches: Sequence[tuple[np.ndarray, ...]]) -> tuple[float, float]:
    """Accuracy and loss over the real pictures."""
    correct, losses = [], []
    for images, labels, real in batches:
        log_probs = np.asarray(scored(params, state, jnp.asarray(images)), np.float64)
        correct.append((log_probs.argmax(-1) == labels)[real])
        losses.append(-log_probs[np.arange(len(labels)), labels][real])
    return float(np.mean(np.concatenate(correct))), float(np.mean(np.concatenate(losses)))


def _cell(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.4g}"
