"""Losses between a fitted and the true mixing measure: every fitted atom belongs to its nearest true one.

A cell with one fitted atom counts its errors once, a cell with several to the powers that `polynomial_systems` gives, and
every cell the error of its mass; so that the loss falls as n^(-1/2) where each parameter falls at its own rate.
Source: Nguyen et al. 2023 ("Demystifying softmax gating"), section 3, D1 and D2; Nguyen et al. 2024 ("Top-K sparse softmax
gating"), section 3, for the largest sum over K cells; Ho and Nguyen 2016 for Voronoi cells.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from moejax.core.errors import SpecError
from moejax.theory.polynomial_systems import r_bar

Powers = Mapping[str, Callable[[int], float]]

GATE = "gate"  # the atom's entry that softmax gates share a translation of

LOCATION_SCALE: Powers = {
    GATE: r_bar,
    "weight": lambda atoms: r_bar(atoms) / 2,
    "bias": r_bar,
    "variance": lambda atoms: r_bar(atoms) / 2,
}
"""Powers for softmax-gated linear experts with Gaussian noise: D2 of the sources."""


@dataclasses.dataclass(frozen=True)
class MixingMeasure:
    """Atoms and their masses exp(log_mass): log_mass [E]; atoms: what each is, by name, [E width].

    Raises SpecError where the numbers of atoms differ.
    """

    log_mass: Float[np.ndarray, "E"]
    atoms: Mapping[str, Float[np.ndarray, "_ _"]]

    def __post_init__(self) -> None:
        for name, values in self.atoms.items():
            if len(values) != len(self.log_mass):
                raise SpecError(f"{len(values)} atoms in {name!r}, but {len(self.log_mass)} masses.")

    def translated(self, log_mass: float, gate: Float[np.ndarray, "_"]) -> "MixingMeasure":
        """With both added to every atom: the same model where gates are softmax."""
        atoms = {**self.atoms, GATE: self.atoms[GATE] + gate[None, :]}
        return MixingMeasure(self.log_mass + log_mass, atoms)


@dataclasses.dataclass(frozen=True)
class VoronoiLoss:
    """loss: the number. cells [E]: of each fitted atom, its true one. errors: largest distance of the atoms of each true one, by
    name [true atoms] (NaN for an empty cell), with 'mass' the error of a cell's mass. measure: the fitted one as it was compared.
    """

    loss: float
    cells: Int[np.ndarray, "E"]
    errors: Mapping[str, Float[np.ndarray, "_"]]
    measure: MixingMeasure


def cells(fitted: MixingMeasure, true: MixingMeasure) -> Int[np.ndarray, "E"]:
    """The nearest true atom of every fitted one, by the distance over all entries of the atoms but the mass."""
    return np.argmin(sum(_squares(fitted, true, name) for name in true.atoms), axis=1)


def voronoi_loss(
    fitted: MixingMeasure,
    true: MixingMeasure,
    powers: Powers,
    *,
    num_selected_experts: int | None = None,
    cell_powers: Mapping[int, Powers] | None = None,
) -> VoronoiLoss:
    """The loss as the measures are. num_selected_experts: K of a top-K gate, whose loss is the largest sum over K cells; None: all.
    cell_powers: of true atoms that have their own.

    Raises SpecError where `powers` misses an entry of the atoms.
    """
    if missing := set(true.atoms) - set(powers):
        raise SpecError(f"no power for {sorted(missing)}; the atoms have {sorted(true.atoms)}.")
    index, mass = cells(fitted, true), np.exp(fitted.log_mass)
    distance = {name: np.sqrt(_squares(fitted, true, name)[np.arange(len(index)), index]) for name in true.atoms}
    count = np.bincount(index, minlength=len(true.log_mass))
    sums = np.zeros(len(true.log_mass))
    for atom, cell in enumerate(index):
        own = (cell_powers or {}).get(int(cell), powers)
        power = {name: 1.0 if count[cell] == 1 else own[name](int(count[cell])) for name in distance}
        sums[cell] += mass[atom] * sum(distance[name][atom] ** power[name] for name in distance)
    off = np.abs(np.bincount(index, mass, len(sums)) - np.exp(true.log_mass))
    errors = {name: _largest(values, index, len(sums)) for name, values in distance.items()} | {"mass": off}
    total = np.sort(sums + off)[::-1][: num_selected_experts or len(sums)]
    return VoronoiLoss(float(np.sum(total)), index, errors, fitted)


def aligned_loss(
    fitted: MixingMeasure, true: MixingMeasure, powers: Powers, *, num_selected_experts: int | None = None
) -> VoronoiLoss:
    """The smallest `voronoi_loss` over translations of the gates, which change no softmax.

    Source: the convention of the papers, an infimum over translations.
    Deviations: the smallest over candidates: those that make a cell's mass and mean gate, for some cell, equal the truth's.
    """
    candidates = (fitted.translated(*shift) for shift in _translations(fitted, true))
    found = (voronoi_loss(one, true, powers, num_selected_experts=num_selected_experts) for one in candidates)
    return min(found, key=lambda loss: loss.loss)


def total_cell_size(index: Int[np.ndarray, "E"], num_true: int, num_selected_experts: int) -> int:
    """The most fitted atoms that any `num_selected_experts` cells hold: a fitted top-K gate must select as many.

    Source: Nguyen et al. 2024 ("Top-K sparse softmax gating"), section 3.2.
    """
    return int(np.sort(np.bincount(index, minlength=num_true))[::-1][:num_selected_experts].sum())


def _translations(fitted: MixingMeasure, true: MixingMeasure) -> Iterator[tuple[float, Any]]:
    """Of the cells by experts alone, which no translation moves, and of every pairing of single atoms."""
    experts = [name for name in true.atoms if name != GATE]
    mass = np.exp(fitted.log_mass)
    by_expert = np.argmin(sum(_squares(fitted, true, name) for name in experts), axis=1) if experts else None
    for cell in range(len(true.log_mass)):
        own = np.flatnonzero(by_expert == cell) if by_expert is not None else np.zeros(0, np.int64)
        if own.size:
            mean = np.average(fitted.atoms[GATE][own], axis=0, weights=mass[own])
            yield float(true.log_mass[cell] - np.log(mass[own].sum())), true.atoms[GATE][cell] - mean
    for atom, cell in itertools.product(range(len(mass)), range(len(true.log_mass))):
        log_mass = float(true.log_mass[cell] - fitted.log_mass[atom])
        yield log_mass, true.atoms[GATE][cell] - fitted.atoms[GATE][atom]


def _squares(fitted: MixingMeasure, true: MixingMeasure, name: str) -> Float[np.ndarray, "E _"]:
    """Squared distances of every fitted to every true atom in one entry."""
    return np.sum((fitted.atoms[name][:, None, :] - true.atoms[name][None, :, :]) ** 2, axis=-1)


def _largest(values: Float[np.ndarray, "E"], index: Int[np.ndarray, "E"], num_true: int) -> Float[np.ndarray, "_"]:
    return np.array(
        [
            np.max(values[index == cell], initial=np.nan if not np.any(index == cell) else 0.0)
            for cell in range(num_true)
        ]
    )
