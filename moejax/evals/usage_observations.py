"""Three published observations about the experts of diffusion transformers, tested on the usage of any model.

Fei et al. 2024 ("Scaling Diffusion Transformers to 16 Billion Parameters", abstract) report of DiT-MoE: the choice of
experts prefers places and time steps and is insensitive to the class; with depth it goes from specific places to dispersion
and balance; it is more concentrated at early time steps and uniform after half. The paper gives pictures; measures,
thresholds and verdicts here are ours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from moejax.evals.expert_usage import Usage
from moejax.evals.usage_information import Information, concentration, information, place_shuffled, tail

Verdict = Literal["found", "not found", "unclear"]
LEVEL = 0.05  # of every test
_WIDTH = 1.96  # standard errors on each side of an interval of 95 per cent


@dataclasses.dataclass(frozen=True)
class Observation:
    """One statement, what was measured, the verdict and its reason. numbers: plain numbers and lists, ready for JSON."""

    statement: str
    measure: str
    verdict: Verdict
    reason: str
    numbers: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return dataclasses.asdict(self)


def observations(
    usage: Usage,
    found: Mapping[str, Information] | None = None,
    *,
    draws: int = 100,
    class_factor: float = 2.0,
    seed: int = 0,
) -> dict[str, Observation]:
    """'preference', 'dispersion' and 'concentration'. found: what `information` says of the usage, if known already.

    draws, seed: as in `information`; class_factor: as in `preference`.
    """
    found = information(usage, draws=draws, seed=seed) if found is None else found
    return {
        "preference": preference(found, class_factor=class_factor),
        "dispersion": dispersion(usage, found["position"], draws=draws, seed=seed),
        "concentration": early_concentration(usage, draws=draws, seed=seed),
    }


def preference(found: Mapping[str, Information], *, class_factor: float = 2.0) -> Observation:
    """Whether experts go by place and time, and not by class. Found, when expert and place, and expert and time, share more
    bits than shuffled pictures show, and each at least `class_factor` times what expert and class share beyond chance.

    All bits are means over the layers. Not found, when place or time shares no more than chance, or surely less than that
    multiple. The class's own p-value is told too: insensitive is not the same as independent.
    """
    mean = {name: float(one.excess.mean()) for name, one in found.items()}
    p_values = {name: one.p_value for name, one in found.items()}
    gaps = {
        name: _interval(
            mean[name] - class_factor * mean["class"],
            (found[name].resampled - class_factor * found["class"].resampled).mean(axis=1),
        )
        for name in ("position", "time")
    }
    chance = [name for name in gaps if p_values[name] > LEVEL]
    below = [name for name, (_, high) in gaps.items() if high < 0]
    verdict: Verdict = "unclear"
    reason = f"the interval of a difference to {class_factor:g} times the class's bits holds zero"
    if chance:
        verdict, reason = "not found", f"{' and '.join(chance)}: no more than shuffled pictures show"
    elif below:
        verdict, reason = "not found", f"{' and '.join(below)}: less than {class_factor:g} times the class's bits"
    elif all(low > 0 for low, _ in gaps.values()):
        verdict, reason = "found", f"place and time each share over {class_factor:g} times as many bits as the class"
    numbers = {
        "bits": {name: one.bits.tolist() for name, one in found.items()},
        "bits_shuffled": {name: one.shuffled.mean(axis=0).tolist() for name, one in found.items()},
        "excess": {name: one.excess.tolist() for name, one in found.items()},
        "mean_excess": mean,
        "p_value": p_values,
        "class_factor": class_factor,
        "difference_95": {name: list(gap) for name, gap in gaps.items()},
    }
    return Observation(
        "experts prefer places and time steps, and are insensitive to the class",
        "bits that expert and place, time or class share, less those of shuffled pictures, mean over the layers",
        verdict, reason, numbers,
    )  # fmt: skip


def dispersion(usage: Usage, position: Information, *, draws: int = 100, seed: int = 0) -> Observation:
    """Whether deeper layers send places to experts less specifically. Found, when the bits that expert and place share,
    beyond chance, fall with depth: a straight line over the layers (0 the first, 1 the last) whose slope is surely negative.

    Not found, when it is surely positive. Balance, 1 - `concentration` of all that a layer processes, is told beside it
    with its own verdict. Intervals are of this model's pictures, not of other training runs.
    """
    layers = len(usage.blocks)
    statement = "with depth, the choice of experts goes from specific places to dispersion and balance"
    measure = (
        "slope over the layers of the bits that expert and place share beyond chance, from the first layer to the last"
    )
    evenness = 1.0 - concentration(usage.picture_mass.sum(axis=1))
    numbers: dict[str, Any] = {"excess": position.excess.tolist(), "evenness": evenness.tolist()}
    if layers < 2 or position.p_value > LEVEL:
        reason = "one layer has no depth" if layers < 2 else "no layer goes by place, so there is nothing to disperse"
        return Observation(statement, measure, "unclear", reason, numbers)
    slope, interval = (
        float(_slope(position.excess)),
        _interval(float(_slope(position.excess)), _slope(position.resampled - position.shuffled.mean(axis=0))),
    )
    resampled = 1.0 - concentration(_resampled(usage.picture_mass, draws, seed))
    balance = _interval(float(_slope(evenness)), _slope(resampled))
    numbers |= {
        "slope": slope,
        "slope_95": list(interval),
        "evenness_slope": float(_slope(evenness)),
        "evenness_slope_95": list(balance),
        "balance_verdict": _sign(balance),
    }
    verdict = _sign((-interval[1], -interval[0]))
    change = {"found": "falls", "not found": "rises", "unclear": "has no sure direction"}[verdict]
    balanced = {"found": "rises", "not found": "falls", "unclear": "has no sure direction"}[_sign(balance)]
    return Observation(
        statement, measure, verdict, f"information about places {change} with depth; balance {balanced}", numbers
    )


def early_concentration(usage: Usage, *, draws: int = 100, seed: int = 0) -> Observation:
    """Whether experts are used less evenly at early time steps. Early is where sampling begins: noise, times near 1.

    Found, when `concentration` in the noisier half of the times exceeds that of the other half by a difference that is
    surely positive, and larger than in pictures whose times were shuffled. Not found, when it is surely negative, or no
    larger than by chance while its interval holds zero. Read the other way, with early meaning little noise, the same
    numbers count with the opposite sign.
    """
    statement = "experts are concentrated at early time steps (near noise, where sampling begins) and even after half"
    measure = "1 - entropy / log E of usage, mean over layers: noisier half of the times less the other half"
    levels = concentration(usage.time_mass.sum(axis=1)).mean(axis=0)
    numbers: dict[str, Any] = {"times": usage.times.tolist(), "concentration": levels.tolist()}
    if len(usage.times) < 2:
        return Observation(statement, measure, "unclear", "one time has no halves", numbers)
    rng = np.random.default_rng(seed)
    resampled = concentration(_resampled(usage.time_mass, draws, seed)).mean(axis=1)
    shuffles = (place_shuffled(rng, usage.time_mass.astype(np.float64)) for _ in range(draws))
    chance = np.array([_late_less_early(concentration(one).mean(axis=0)) for one in shuffles])
    difference = float(_late_less_early(levels))
    interval = _interval(difference, _late_less_early(resampled))
    p_value = tail(abs(difference), np.abs(chance))
    half = len(levels) // 2
    numbers |= {
        "noisy_half": float(levels[-half:].mean()),
        "other_half": float(levels[:half].mean()),
        "difference": difference,
        "difference_95": list(interval),
        "p_value": p_value,
        "layers": concentration(usage.time_mass.sum(axis=1)).tolist(),
    }
    verdict = _sign(interval)
    reason = {"found": "more", "not found": "less", "unclear": "neither surely more nor less"}[verdict]
    if verdict != "unclear" and p_value > LEVEL:
        verdict, reason = "unclear", "not more or less than with shuffled times"
    return Observation(statement, measure, verdict, f"usage near noise is {reason} concentrated", numbers)


def _late_less_early(levels: Float[np.ndarray, "... times"]) -> Float[np.ndarray, "..."]:
    """Mean of the noisier half less that of the other; a time in the middle belongs to neither."""
    half = levels.shape[-1] // 2
    return np.asarray(levels[..., -half:].mean(axis=-1) - levels[..., :half].mean(axis=-1))


def _slope(values: Float[np.ndarray, "... L"]) -> Float[np.ndarray, "..."]:
    """Least squares slope over depth from 0 to 1."""
    depth = np.linspace(-0.5, 0.5, values.shape[-1])
    return np.asarray(values @ depth / np.sum(depth**2))


def _resampled(mass: Float[np.ndarray, "L M ..."], draws: int, seed: int) -> Float[np.ndarray, "draws L ..."]:
    """Sums over the pictures, drawn again with replacement."""
    pictures = mass.shape[1]
    counts = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), size=draws)
    return np.einsum("dm,lm...->dl...", counts.astype(np.float64), mass)


def _interval(value: float, resampled: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """Normal interval of 95 per cent around the value. The mean of resampled information is biased, its spread is not."""
    width = _WIDTH * float(np.std(resampled, ddof=1))
    return value - width, value + width


def _sign(interval: tuple[float, float]) -> Verdict:
    return "found" if interval[0] > 0 else "not found" if interval[1] < 0 else "unclear"
