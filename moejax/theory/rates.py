"""How fast an error falls with the number of examples: slopes of log error over log n, with intervals from resampled replicates.

Source: ours; the bootstrap is Efron's (1979), percentile intervals, replicates drawn again within every n.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from moejax.core.errors import SpecError
from moejax.theory.findings import Curve, Expected, Finding, judged, untestable

Errors = Mapping[int, Mapping[str, Float[np.ndarray, "_"]]]
"""By size and quantity: the errors of all replicates, NaN for one whose fit failed."""

SUMMARIES: Mapping[str, Callable[[Float[np.ndarray, "..."]], Float[np.ndarray, "..."]]] = {
    "mean": lambda errors: np.mean(errors, axis=-1),
    "median": lambda errors: np.median(errors, axis=-1),
    "q90": lambda errors: np.quantile(errors, 0.9, axis=-1),
}
_FEWEST_SIZES, _FEWEST_REPLICATES = 3, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """error = constant * n^slope, by least squares in logarithms. interval: 95 % of the resampled slopes. summary: of SUMMARIES.

    sizes: n of the fit, replicates: at each of them; failed: fits without a finite error, left out, over all sizes.
    """

    slope: float
    interval: tuple[float, float]
    constant: float
    summary: str
    sizes: tuple[int, ...]
    replicates: tuple[int, ...]
    failed: int


def rate(
    errors: Mapping[int, Float[np.ndarray, "_"]], *, summary: str = "mean", resamples: int = 1000, seed: int = 0
) -> Rate:
    """From errors of every replicate by n. Nothing is left out but what is not finite, and that is counted.

    Raises SpecError for fewer than 3 sizes or 5 finite replicates at one, for which there is no interval, and where an error is zero
    in the summary (an error that is exactly zero has no rate).
    """
    finite = {n: values[np.isfinite(values)] for n, values in sorted(errors.items())}
    if len(finite) < _FEWEST_SIZES:
        raise SpecError(f"{len(finite)} sizes give no interval of a slope; use at least {_FEWEST_SIZES}.")
    for n, values in finite.items():
        if len(values) < _FEWEST_REPLICATES:
            raise SpecError(
                f"{len(values)} finite errors of {len(errors[n])} replicates at n={n}: no interval; use at least "
                f"{_FEWEST_REPLICATES} that converge."
            )
    log_n = np.log(np.array(list(finite), np.float64))
    summarise, draw = SUMMARIES[summary], np.random.default_rng(seed)
    centre = _log_summaries(summarise, [values[None] for values in finite.values()])
    drawn = [values[draw.integers(len(values), size=(resamples, len(values)))] for values in finite.values()]
    slopes, _ = _line(log_n, _log_summaries(summarise, drawn))
    (slope,), (constant,) = _line(log_n, centre)
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Rate(
        slope=float(slope),
        interval=(float(low), float(high)),
        constant=float(np.exp(constant)),
        summary=summary,
        sizes=tuple(finite),
        replicates=tuple(len(values) for values in finite.values()),
        failed=sum(len(values) - len(finite[n]) for n, values in errors.items()),
    )


def rate_findings(expected: Sequence[Expected], errors: Errors) -> tuple[Finding, ...]:
    """The slope of every expected quantity over the sizes from its first on; 'not testable' where there is no interval, and why."""
    found = []
    for one in expected:
        own = {n: values[one.quantity] for n, values in errors.items() if n >= one.first_size}
        failed = int(sum(np.sum(~np.isfinite(values)) for values in own.values()))
        try:
            slope = rate(own, summary=one.summary)
        except SpecError as error:
            found.append(untestable(one, str(error), failed=failed))
            continue
        found.append(
            judged(
                one,
                slope.slope,
                slope.interval,
                sizes=slope.sizes,
                replicates=slope.replicates,
                failed=slope.failed,
            )
        )
    return tuple(found)


def error_curves(
    errors: Errors, quantities: Sequence[str], *, summary: str = "mean", label: str = "{}"
) -> tuple[Curve, ...]:
    """A summary of each quantity over the sizes, with the band of its middle half; label: with the quantity for {}."""
    sizes, curves = sorted(errors), []
    for quantity in quantities:
        finite = [errors[n][quantity][np.isfinite(errors[n][quantity])] for n in sizes]
        kept = [(n, values) for n, values in zip(sizes, finite, strict=True) if len(values)]
        low, high = np.array([np.quantile(values, [0.25, 0.75]) for _, values in kept]).reshape(-1, 2).T
        curves.append(
            Curve(
                label=label.format(quantity),
                x=np.array([n for n, _ in kept], np.float64),
                y=np.array([SUMMARIES[summary](values) for _, values in kept], np.float64),
                low=low,
                high=high,
            )
        )
    return tuple(curves)


def paired_ratio(
    above: Float[np.ndarray, "_"], below: Float[np.ndarray, "_"], *, resamples: int = 1000
) -> tuple[float, tuple[float, float]]:
    """Of the means of values of the same replicates, with the 95 % interval of resampled replicates."""
    index = np.random.default_rng(0).integers(len(above), size=(resamples, len(above)))
    low, high = np.quantile(above[index].mean(axis=1) / below[index].mean(axis=1), [0.025, 0.975])
    return float(above.mean() / below.mean()), (float(low), float(high))


def check_protocol(sizes: Sequence[int], replicates: int, fewest_examples: int) -> None:
    """Raises SpecError for sizes and replicates that give no interval of a slope."""
    if len(sizes) < _FEWEST_SIZES or min(sizes) < fewest_examples or replicates < _FEWEST_REPLICATES:
        raise SpecError(
            f"a study needs at least {_FEWEST_SIZES} sizes of {fewest_examples} examples or more and {_FEWEST_REPLICATES} "
            f"replicates for an interval, not sizes={tuple(sizes)}, replicates={replicates}."
        )


def _log_summaries(summarise: Callable, samples: list[Float[np.ndarray, "_ _"]]) -> Float[np.ndarray, "_ _"]:
    """Logarithms of the summaries [resamples, sizes]."""
    found = np.stack([summarise(values) for values in samples], axis=1)
    if np.any(found <= 0):
        raise SpecError("an error is zero in the summary: it has no logarithm and no rate; look at the estimates.")
    return np.log(found)


def _line(log_n: Float[np.ndarray, "_"], log_error: Float[np.ndarray, "_ _"]) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts of the rows of log_error."""
    centred = log_n - log_n.mean()
    slope = log_error @ centred / np.sum(centred**2)
    return slope, log_error.mean(axis=1) - slope * log_n.mean()
