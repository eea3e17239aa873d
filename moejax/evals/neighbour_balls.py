"""Precision, recall, density and coverage: which samples lie in balls around real pictures, and the other way round.

A ball's radius is the distance of its centre to the k-th nearest other point of its own set.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from moejax.core.errors import SpecError
from moejax.evals.frechet import check_features


@dataclasses.dataclass(frozen=True)
class NeighbourScores:
    """precision: samples in some real ball. recall: real points in some sample's ball. coverage: real balls that hold a
    sample; all in [0, 1]. density: real balls per sample over k; may exceed 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_scores(
    samples: Float[np.ndarray, "M D"], reference: Float[np.ndarray, "M2 D2"], *, neighbours: int = 5
) -> NeighbourScores:
    """The four scores of `samples` against real features, `neighbours` being k; distances are Euclidean, in float64.

    They depend on how many points there are: compare scores of equal numbers only. Memory grows with the rows, not with
    their square. Raises SpecError for too few rows, for different dimensions, and for NaN or infinite features.
    Source: Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric", equations 1 to 3 (balls include their
        boundary); Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics", equations 3 and 5 (balls are open, as in
        their code).
    """
    check_features(samples)
    check_features(reference)
    if samples.shape[1] != reference.shape[1]:
        raise SpecError(f"features of {samples.shape[1]} and {reference.shape[1]} dimensions cannot be compared.")
    fewest = min(len(samples), len(reference))
    if not 1 <= neighbours < fewest:
        raise SpecError(
            f"neighbours={neighbours} must lie in [1, {fewest - 1}]: each of the {fewest} points needs so many others."
        )
    fake, real = samples.astype(np.float64), reference.astype(np.float64)
    real_radius, fake_radius = _radii(real, neighbours), _radii(fake, neighbours)
    inside = np.zeros(len(fake), bool)
    open_balls = np.zeros(len(fake), np.int64)
    recalled: Bool[np.ndarray, " M2"] = np.zeros(len(real), bool)
    nearest = np.full(len(real), np.inf)
    for part in _parts(len(fake), len(real)):
        squared = _squared_distances(fake[part], real)
        inside[part] = (squared <= real_radius).any(axis=1)
        open_balls[part] = (squared < real_radius).sum(axis=1)
        recalled |= (squared <= fake_radius[part, None]).any(axis=0)
        nearest = np.minimum(nearest, squared.min(axis=0))
    return NeighbourScores(
        precision=float(inside.mean()),
        recall=float(recalled.mean()),
        density=float(open_balls.mean() / neighbours),
        coverage=float((nearest < real_radius).mean()),
    )


def _radii(points: np.ndarray, neighbours: int) -> Float[np.ndarray, " M"]:
    """Squared distance of each point to its k-th nearest other one."""
    result = np.empty(len(points))
    for part in _parts(len(points), len(points)):
        squared = _squared_distances(points[part], points)
        own: Int[np.ndarray, " M2"] = np.arange(len(points))[part]
        squared[np.arange(len(own)), own] = np.inf  # a point is not its own neighbour, its copy is
        result[part] = np.partition(squared, neighbours - 1, axis=1)[:, neighbours - 1]
    return result


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None, :] - 2.0 * (x @ y.T)
    return np.maximum(squared, 0.0)


def _parts(rows: int, columns: int, *, entries: int = 4_000_000) -> list[slice]:
    step = max(1, entries // max(columns, 1))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
