"""Few-shot accuracy of frozen features: ridge regression in closed form on a few examples per class."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from moejax.core.errors import SpecError

Features = Float[np.ndarray, "_ D"]
Labels = Int[np.ndarray, "_"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
    """shots: examples per class. draws: independent draws of them. l2: candidates, chosen on the held-out part."""

    shots: int = 10
    draws: int = 5
    l2: tuple[float, ...] = tuple(2.0**power for power in range(-6, 13, 2))
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shots < 1 or self.draws < 1 or not self.l2 or min(self.l2) <= 0:
            raise SpecError(f"{self}: shots and draws must be at least 1 and every l2 above 0.")

    def evaluate(
        self, train: tuple[Features, Labels], valid: tuple[Features, Labels], test: tuple[Features, Labels]
    ) -> dict:
        """{'accuracy', 'standard_error', 'accuracies', 'l2', 'shots', 'draws'}, each pair being (features, labels).

        `valid` chooses l2 and is never fitted. The standard error is over the draws (None for a single one).
        Raises SpecError when a class of `train` has fewer than `shots` examples.
        Source: the few-shot probe of V-MoE (Riquelme et al. 2021, appendix on transfer) and big_vision: features
        standardised by the statistics of the drawn examples, targets -1 / +1, least squares with an l2 penalty.
        Deviations: the intercept is not penalised, and l2 is chosen on held-out examples rather than on the test set.
        """
        num_classes = int(max(train[1].max(), valid[1].max(), test[1].max())) + 1
        accuracies, chosen = [], []
        for draw in range(self.draws):
            rows = draw_shots(train[1], self.shots, np.random.default_rng((self.seed, draw)))
            x, labels = train[0][rows].astype(np.float64), train[1][rows]
            mean, deviation = x.mean(0), x.std(0) + 1e-6
            weights = ridge((x - mean) / deviation, 2.0 * np.eye(num_classes)[labels] - 1.0, self.l2)
            scores = [_score((valid[0] - mean) / deviation, valid[1], w) for w in weights]
            best = int(np.argmax(scores))
            chosen.append(self.l2[best])
            accuracies.append(_score((test[0] - mean) / deviation, test[1], weights[best]))
        error = float(np.std(accuracies, ddof=1) / np.sqrt(self.draws)) if self.draws > 1 else None
        return {
            "accuracy": float(np.mean(accuracies)),
            "standard_error": error,
            "accuracies": accuracies,
            "l2": chosen,
            "shots": self.shots,
            "draws": self.draws,
        }


def ridge(
    x: Float[np.ndarray, "B D"], y: Float[np.ndarray, "B N"], l2: Sequence[float]
) -> list[tuple[Float[np.ndarray, "D N"], Float[np.ndarray, "N"]]]:
    """For every l2 the kernel and intercept that minimise |y - x w - b|^2 + l2 |w|^2. One SVD serves all of them.

    Source: Hoerl and Kennard 1970, with the intercept left out of the penalty.
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    left, scale, right = np.linalg.svd(x - mean_x, full_matrices=False)
    projected = left.T @ (y - mean_y)
    solutions = []
    for penalty in l2:
        kernel = right.T @ ((scale / (scale**2 + penalty))[:, None] * projected)
        solutions.append((kernel, mean_y - mean_x @ kernel))
    return solutions


def draw_shots(labels: Labels, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Row indices of `shots` examples of every class, without replacement."""
    rows = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < shots:
            raise SpecError(f"class {label} has {len(members)} examples, fewer than shots={shots}; lower shots.")
        rows.append(rng.choice(members, shots, replace=False))
    return np.concatenate(rows)


def _score(x: np.ndarray, labels: np.ndarray, solution: tuple[np.ndarray, np.ndarray]) -> float:
    kernel, intercept = solution
    return float(np.mean((x @ kernel + intercept).argmax(-1) == labels))
