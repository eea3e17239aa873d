"""Scores of generated pictures against real ones, always beside the score that real pictures get at the same number.

Absolute values of all these scores depend on the number of samples, the reference and the extractor; so every comparison
holds the floor: n real pictures, held out from the reference, scored as if they were samples.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from moejax.core.errors import SpecError
from moejax.evals.feature_extractors import Extracted, Extractor, extract
from moejax.evals.frechet import frechet_distance, moments
from moejax.evals.kernel_distance import kernel_distance, unit_scale
from moejax.evals.neighbour_balls import neighbour_scores
from moejax.evals.reference_statistics import ReferenceStatistics
from moejax.evals.sample_files import SampleFile


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Share of pictures in which a classifier sees the class that was asked for, with its binomial standard error."""

    accuracy: float
    standard_error: float
    count: int


@dataclasses.dataclass(frozen=True)
class Score:
    """One row of a comparison. Distances: lower is better; kernel_error: its standard error, None if unknown.

    agreement: None for an extractor that is no classifier, or without labels. label_distance: total variation, in
    [0, 1], between the classes of these pictures and those of the reference.
    """

    name: str
    count: int
    frechet: float
    kernel: float
    kernel_error: float | None
    precision: float
    recall: float
    density: float
    coverage: float
    agreement: Agreement | None
    label_distance: float
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, ready for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Scores of several sets of samples by one extractor. floor: that of held-out real pictures.

    count: pictures of every row, n. neighbour_count: pictures on each side of precision, recall, density and coverage.
    kernel_scale: by which features were multiplied for the kernel distance.
    """

    extractor: str
    fingerprint: str
    feature_dim: int
    reference: str
    reference_count: int
    count: int
    neighbour_count: int
    neighbours: int
    kernel_scale: float
    seed: int
    rows: tuple[Score, ...]
    floor: Score

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, ready for JSON."""
        return dataclasses.asdict(self)


def compare(
    files: Mapping[str, SampleFile],
    extractor: Extractor,
    reference: ReferenceStatistics,
    *,
    real: ReferenceStatistics | None = None,
    neighbours: int = 5,
    seed: int = 0,
) -> Comparison:
    """Scores every set of samples, and real pictures, at one common number n and against one reference.

    real: other real pictures for the floor; by default n pictures of the reference are held out, for all rows alike.
    n is the size of the smallest set, and at most half the reference (or all of `real`); larger sets are cut to n pictures
    chosen by `seed`. Features are rescaled for the kernel distance (`unit_scale`) unless the extractor says that its own
    scale is the published one.
    Raises SpecError when an extractor does not fit the reference, for labels that the classifier does not know, and as
    the scores do. Warnings, such as fewer samples than feature dimensions, are issued and also kept in the rows.
    Source: ours; the scores are those of `frechet`, `kernel_distance` and `neighbour_balls`.
    """
    if not files:
        raise SpecError("there are no samples to score.")
    for given in (reference, *([] if real is None else [real])):
        given.check(extractor)
    for name, file in files.items():
        _check_labels(name, file.label, extractor)
    count = min(*(len(file) for file in files.values()), len(reference) // 2 if real is None else len(real))
    if count <= neighbours:
        raise SpecError(
            f"scores need more than neighbours={neighbours} pictures on each side; there are {count} (the smallest set "
            "of samples, or half of the reference). Give more pictures or a smaller --neighbours."
        )
    rest, held = reference.divide(count, seed=seed) if real is None else (reference, real)
    scale = 1.0 if extractor.unit_features else unit_scale(rest.extracted.features)
    common = min(count, len(rest))

    def row(name: str, found: Extracted, label: np.ndarray) -> Score:
        index = np.random.default_rng(seed).permutation(len(found))[:count]
        return _score(name, found.take(index), label[index], rest, common, neighbours, scale, seed)

    rows = tuple(row(name, extract(extractor, file.samples), file.label) for name, file in files.items())
    return Comparison(
        extractor=extractor.name,
        fingerprint=extractor.fingerprint,
        feature_dim=rest.extracted.features.shape[1],
        reference=rest.name,
        reference_count=len(rest),
        count=count,
        neighbour_count=common,
        neighbours=neighbours,
        kernel_scale=scale,
        seed=seed,
        rows=rows,
        floor=row(f"real: {held.name}", held.extracted, held.label),
    )


def agreement(predicted: Int[np.ndarray, " M"], label: Int[np.ndarray, " M"]) -> Agreement:
    """How often `predicted` is `label`. Source: ours; 'conditional accuracy' in papers on class-conditional pictures."""
    share = float(np.mean(predicted == label))
    return Agreement(share, float(np.sqrt(share * (1 - share) / len(label))), len(label))


def label_distance(first: Int[np.ndarray, " M"], second: Int[np.ndarray, " M2"]) -> float:
    """Half the sum over classes of the difference between their shares; 0 for equal shares, 1 for no common class."""
    classes = int(max(first.max(), second.max())) + 1
    shares = [np.bincount(label, minlength=classes) / len(label) for label in (first, second)]
    return float(0.5 * np.abs(shares[0] - shares[1]).sum())


def _score(
    name: str,
    found: Extracted,
    label: np.ndarray,
    rest: ReferenceStatistics,
    common: int,
    neighbours: int,
    scale: float,
    seed: int,
) -> Score:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        distance = frechet_distance(moments(found.features), rest.moments)
        kernel = kernel_distance(found.features, rest.extracted.features, scale=scale, seed=seed)
        balls = neighbour_scores(found.features[:common], rest.extracted.features[:common], neighbours=neighbours)
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return Score(
        name=name,
        count=len(found),
        frechet=distance,
        kernel=kernel.value,
        kernel_error=kernel.standard_error,
        **dataclasses.asdict(balls),
        agreement=None if found.predicted is None else agreement(found.predicted, label),
        label_distance=label_distance(label, rest.label),
        warnings=tuple(str(warning.message) for warning in caught),
    )


def _check_labels(name: str, label: np.ndarray, extractor: Extractor) -> None:
    top = extractor.num_classes
    if label.min() < 0 or (top is not None and label.max() >= top):
        raise SpecError(
            f"{name} asks for classes {label.min()} to {label.max()}; {extractor.name} knows "
            f"{'classes from 0' if top is None else f'0 to {top - 1}'}. Score samples of the data that it was trained on."
        )
