"""Calibration: does a confidence of 80 % mean 80 % correct? Also negative log-likelihood and Brier score."""

import numpy as np
from jaxtyping import Float, Int

from moejax.core.errors import SpecError


def calibration(probabilities: Float[np.ndarray, "B N"], labels: Int[np.ndarray, "B"], *, num_bins: int = 15) -> dict:
    """{'ece', 'nll' (nats), 'brier', 'bins': [{'low', 'high', 'count', 'confidence', 'accuracy'}]}.

    Confidence is the largest probability. Bins are equally wide and closed above, (low, high]; empty ones are left out.
    ece is the mean over examples of |accuracy - confidence| of the bin; brier the mean of sum_n (p_n - [n = label])^2,
    between 0 and 2.
    Raises SpecError without examples, with num_bins < 1, or when rows do not sum to one.
    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3; Brier 1950.
    """
    if num_bins < 1 or not len(labels):
        raise SpecError(f"calibration needs examples and bins, got {len(labels)} examples and num_bins={num_bins}.")
    probabilities = probabilities.astype(np.float64)
    if not np.allclose(probabilities.sum(-1), 1.0, atol=1e-3):
        raise SpecError("calibration needs probabilities whose rows sum to one; pass them through a softmax first.")
    rows = np.arange(len(labels))
    confidence = probabilities.max(-1)
    correct = (probabilities.argmax(-1) == labels).astype(np.float64)
    one_hot = np.zeros_like(probabilities)
    one_hot[rows, labels] = 1.0
    bins = reliability(confidence, correct, num_bins=num_bins)
    return {
        "ece": float(sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(labels)),
        "nll": float(-np.mean(np.log(np.maximum(probabilities[rows, labels], 1e-12)))),
        "brier": float(np.mean(np.sum((probabilities - one_hot) ** 2, axis=-1))),
        "bins": bins,
    }


def reliability(
    confidence: Float[np.ndarray, "B"], correct: Float[np.ndarray, "B"], *, num_bins: int
) -> list[dict[str, float]]:
    """Mean confidence and accuracy of every bin that holds an example."""
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    bins = []
    for i in range(num_bins):
        if (inside := index == i).any():
            bins.append(
                {
                    "low": float(edges[i]),
                    "high": float(edges[i + 1]),
                    "count": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(correct[inside].mean()),
                }
            )
    return bins
