"""Fréchet distance between two sets of features, each described by its mean and covariance."""

import dataclasses
import warnings

import numpy as np
from jaxtyping import Float

from moejax.core.errors import SpecError


class ScoreWarning(UserWarning):
    """A score that can be computed, but should not be trusted as it stands."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and covariance (divided by n - 1) of n feature vectors, in float64."""

    mean: Float[np.ndarray, " D"]
    covariance: Float[np.ndarray, "D D"]
    count: int


def moments(features: Float[np.ndarray, "M D"]) -> Moments:
    """Moments of the rows of `features`. Raises SpecError for fewer than two rows and for NaN or infinite values.

    Source: ours; n - 1 as in the published FID code.
    """
    check_features(features)
    if len(features) < 2:
        raise SpecError(f"a covariance of {len(features)} feature vector(s) does not exist; give at least 2.")
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    centred = values - mean
    return Moments(mean, centred.T @ centred / (len(values) - 1), len(values))


def frechet_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), in squared feature units; symmetric, 0 for equal moments.

    Warns (`ScoreWarning`) when either side has no more samples than feature dimensions. Raises SpecError when the
    dimensions differ.
    Source: Dowson and Landau 1982; as a score of pictures Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update
        Rule", equation 6.
    Deviations: tr (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of the symmetric S1^(1/2) S2 S1^(1/2), which
        are the same; a Schur root of the product, as published, can return complex numbers for covariances without full
        rank. Rounding below zero is cut off.
    """
    if first.mean.shape != second.mean.shape:
        raise SpecError(
            f"features of {first.mean.size} and of {second.mean.size} dimensions cannot be compared; "
            "extract both with the same extractor."
        )
    _warn_about_rank(first, second)
    difference = first.mean - second.mean
    root = _symmetric_root(first.covariance)
    product = root @ second.covariance @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(0.5 * (product + product.T)), 0.0, None)).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return max(0.0, float(difference @ difference + traces - 2.0 * cross))


def check_features(features: Float[np.ndarray, "M D"]) -> None:
    """Raises SpecError that counts the rows with NaN or infinite values."""
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        raise SpecError(
            f"{int(bad.sum())} of {len(features)} feature vectors hold NaN or infinite values, the first in row "
            f"{int(bad.argmax())}; the extractor's weights or the pictures are broken, and no score is meant to hide it."
        )


def _warn_about_rank(*sides: Moments) -> None:
    count, dim = min(side.count for side in sides), sides[0].mean.size
    if count <= dim:
        warnings.warn(
            f"Fréchet distance from {count} samples in {dim} feature dimensions: the covariance has no full rank and "
            f"the distance is biased upwards. Use more than {dim} samples, and read it only beside its floor.",
            ScoreWarning,
            stacklevel=3,
        )


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
