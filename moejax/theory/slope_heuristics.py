"""How heavy a penalty on the number of parameters must be, from the data themselves: twice the least that works.

Models with penalties kappa * dimension below some kappa are chosen as large as there are any, above it reasonable; the penalty to use is
twice that kappa. It is found where the chosen dimension jumps, or as the slope at which the contrast falls among large models.
Source: Birge and Massart 2007 ("Minimal penalties for Gaussian model selection"); Baudry, Maugis and Michel 2012 ("Slope heuristics:
    overview and implementation"), sections 3 and 4.
Deviations: the slope is by ordinary least squares, where their package uses a robust regression.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True)
class Selection:
    """model: index of the chosen one. kappa: the minimal penalty; twice of it was used."""

    model: int
    kappa: float


def penalised(dimension: Float[np.ndarray, "_"], contrast: Float[np.ndarray, "_"], kappa: float) -> int:
    """The model with the least contrast + kappa * dimension, the smaller of two that are equal."""
    return int(np.lexsort((dimension, contrast + kappa * dimension))[0])


def dimension_jump(dimension: Float[np.ndarray, "_"], contrast: Float[np.ndarray, "_"]) -> Selection:
    """The minimal kappa is where the chosen dimension falls most as kappa grows; the last such where falls are equal.

    contrast: minus the log-likelihood, or any that is summed over observations. Raises SpecError for fewer than 3 models, or where no
    larger model has a smaller contrast, so that nothing jumps.
    """
    _check(dimension, contrast)
    kappa, model, jumps = 0.0, penalised(dimension, contrast, 0.0), []
    while True:
        smaller = dimension < dimension[model]
        if not np.any(smaller):
            break
        # The next kappa at which some smaller model is as good.
        levels = (contrast[smaller] - contrast[model]) / (dimension[model] - dimension[smaller])
        kappa = float(max(kappa, levels.min()))
        ties = np.flatnonzero(smaller)[np.isclose(levels, levels.min(), rtol=1e-12, atol=0.0)]
        following = int(ties[np.argmin(dimension[ties])])
        jumps.append((float(dimension[model] - dimension[following]), kappa))
        model = following
    if not jumps:
        raise SpecError("the smallest model has the least contrast: no dimension jumps; offer models that fit better.")
    kappa = max(jumps)[1]
    return Selection(penalised(dimension, contrast, 2 * kappa), kappa)


def data_driven_slope(dimension: Float[np.ndarray, "_"], contrast: Float[np.ndarray, "_"]) -> Selection:
    """The minimal kappa is the slope of minus the contrast over the dimension among the largest models.

    How many of them is undecided: the choice is that of the longest run of numbers of models that choose alike, and kappa the median
    slope of the run. Raises SpecError for fewer than 3 models.
    """
    _check(dimension, contrast)
    order = np.argsort(dimension)
    slopes, models = [], []
    for first in range(len(order) - 1):  # from all models to the last two
        own = order[first:]
        slopes.append(float(-np.polyfit(dimension[own], contrast[own], 1)[0]))
        models.append(penalised(dimension, contrast, 2 * slopes[-1]))
    runs = np.flatnonzero(np.append(True, np.diff(models) != 0))
    lengths = np.diff(np.append(runs, len(models)))
    start = int(runs[np.argmax(lengths)])
    return Selection(models[start], float(np.median(slopes[start : start + int(lengths.max())])))


def best_of_each(dimension: Float[np.ndarray, "_"], contrast: Float[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
    """Of models with as many parameters the index of the one with the least contrast, in the order of dimensions: no penalty that is a
    function of the dimension selects another.
    """
    order = np.lexsort((contrast, dimension))
    return order[np.unique(dimension[order], return_index=True)[1]]


def _check(dimension: Float[np.ndarray, "_"], contrast: Float[np.ndarray, "_"]) -> None:
    if len(dimension) < 3 or len(dimension) != len(contrast) or not np.all(np.isfinite(contrast)):
        raise SpecError(
            f"{len(dimension)} dimensions and {len(contrast)} contrasts must be of the same models, at least 3, and finite."
        )


RULES = {"dimension jump": dimension_jump, "data-driven slope": data_driven_slope}
