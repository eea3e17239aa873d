"""How much the choice of an expert tells about time, place and class: mutual information beside shuffled pictures.

Tokens of one picture depend on each other, so pictures are the unit of everything: shuffling keeps each picture's own
numbers together, and intervals come from drawing pictures again.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from moejax.evals.expert_usage import Usage, shares


@dataclasses.dataclass(frozen=True)
class Information:
    """Bits that expert and one other thing share, per layer. shuffled: the same after shuffling, `draws` times.
    resampled: with pictures drawn again.
    """

    bits: Float[np.ndarray, " L"]
    shuffled: Float[np.ndarray, "draws L"]
    resampled: Float[np.ndarray, "draws2 L"]

    @property
    def excess(self) -> Float[np.ndarray, " L"]:
        """Bits beyond those that shuffled pictures show, which are chance."""
        return self.bits - self.shuffled.mean(axis=0)

    @property
    def p_value(self) -> float:
        """Share of shuffles, the data themselves among them, whose mean over the layers is as large."""
        return tail(float(self.bits.mean()), self.shuffled.mean(axis=1))

    @property
    def error(self) -> Float[np.ndarray, " L"]:
        """Standard error of the bits, from the pictures drawn again."""
        return self.resampled.std(axis=0, ddof=1)


def information(usage: Usage, *, draws: int = 100, seed: int = 0) -> dict[str, Information]:
    """'position', 'time' and 'class'. draws: shuffles, and resamplings of the pictures.

    Shuffled are the places within each picture, the times within each picture, and the classes over the pictures.
    Source: ours; mutual information of Shannon 1948, its chance level by permutation.
    """
    rng = np.random.default_rng(seed)
    pictures = len(usage.label)
    counts = rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=draws).astype(np.float64)
    place, time = (mass.astype(np.float64) for mass in (usage.place_mass, usage.time_mass))
    own, members = usage.picture_mass.astype(np.float64), usage.members

    def class_table(members: np.ndarray, count: np.ndarray) -> np.ndarray:
        return np.einsum("mn,lme->lne", members * count[:, None], own)

    once = np.ones(pictures)
    return {
        "position": _measure(
            _table(place, once), lambda: place_shuffled(rng, place), lambda c: _table(place, c), counts
        ),
        "time": _measure(_table(time, once), lambda: place_shuffled(rng, time), lambda c: _table(time, c), counts),
        "class": _measure(
            class_table(members, once),
            lambda: class_table(members[rng.permutation(pictures)], once),
            lambda c: class_table(members, c),
            counts,
        ),
    }


def place_shuffled(rng: np.random.Generator, mass: Float[np.ndarray, "L M rows E"]) -> Float[np.ndarray, "L rows E"]:
    """Sum over the pictures after each picture's rows (places or times) were put in an order of its own."""
    order = rng.permuted(np.tile(np.arange(mass.shape[2]), (mass.shape[1], 1)), axis=1)
    return np.take_along_axis(mass, order[None, :, :, None], axis=2).sum(axis=1)


def mutual_bits(table: Float[np.ndarray, "... rows E"]) -> Float[np.ndarray, "..."]:
    """I(row; column) in bits of each table of non-negative masses; 0 for an empty one."""
    total = table.sum(axis=(-2, -1), keepdims=True)
    joint = table / np.where(total > 0, total, 1.0)
    independent = joint.sum(-1, keepdims=True) * joint.sum(-2, keepdims=True)
    positive = joint > 0
    ratio = np.where(positive, joint / np.where(positive, independent, 1.0), 1.0)
    return np.asarray(np.maximum(0.0, np.sum(joint * np.log2(ratio), axis=(-2, -1))))


def concentration(mass: Float[np.ndarray, "... E"]) -> Float[np.ndarray, "..."]:
    """1 - entropy / log E of the shares: 0 for even use of all experts, 1 for a single one; 0 for one expert."""
    share = shares(mass)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=-1)
    return np.asarray(1.0 - entropy / np.log(mass.shape[-1])) if mass.shape[-1] > 1 else np.zeros(entropy.shape)


def tail(value: float, draws: Float[np.ndarray, " draws"]) -> float:
    """(1 + draws at least as large) / (1 + draws). Source: Davison and Hinkley 1997, equation 4.11."""
    return float((1 + np.sum(draws >= value - 1e-12)) / (1 + len(draws)))


def _table(mass: Float[np.ndarray, "L M rows E"], count: Float[np.ndarray, " M"]) -> Float[np.ndarray, "L rows E"]:
    return np.einsum("lmre,m->lre", mass, count)


def _measure(
    table: np.ndarray,
    shuffle: Callable[[], np.ndarray],
    resample: Callable[[np.ndarray], np.ndarray],
    counts: np.ndarray,
) -> Information:
    shuffled = np.stack([mutual_bits(shuffle()) for _ in counts])
    return Information(mutual_bits(table), shuffled, np.stack([mutual_bits(resample(count)) for count in counts]))
