"""Which experts a diffusion model uses at which noise level, place in the picture, and class.

Plans are read off the model while it looks at noised real pictures, or at the states that its own sampling went through.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from moejax.core.errors import SpecError
from moejax.diffusion.contract import Process
from moejax.diffusion.predictions import noised
from moejax.evals.predictions import fill_padding, group_size
from moejax.evals.routing_statistics import expert_mass


@dataclasses.dataclass(frozen=True)
class Usage:
    """How much of every picture each expert processed, as `expert_mass` counts it.

    time_mass: summed over the places. place_mass: summed over the times; T places in row order on `grid`.
    times: the noise levels, 0 data to 1 noise, ascending. label: class of each of the M pictures. blocks: the L layers.
    """

    blocks: tuple[str, ...]
    times: Float[np.ndarray, " times"]
    label: Int[np.ndarray, " M"]
    num_classes: int
    grid: tuple[int, int]
    time_mass: Float[np.ndarray, "L M times E"]
    place_mass: Float[np.ndarray, "L M T E"]

    @property
    def num_experts(self) -> int:
        return self.time_mass.shape[-1]

    @functools.cached_property
    def picture_mass(self) -> Float[np.ndarray, "L M E"]:
        """Summed over places and times."""
        return self.time_mass.sum(axis=2)

    def by_time(self) -> Float[np.ndarray, "L times E"]:
        """Share of each expert in what is processed at a time; rows sum to one."""
        return shares(self.time_mass.sum(axis=1))

    def by_position(self) -> Float[np.ndarray, "L T E"]:
        """Share of each expert in what is processed at a place; rows sum to one, or are 0 where nothing is processed."""
        return shares(self.place_mass.sum(axis=1))

    def by_class(self) -> Float[np.ndarray, "L N E"]:
        """Share of each expert in what is processed of a class; rows sum to one, or are 0 for classes without pictures."""
        return shares(np.einsum("mn,lme->lne", self.members, self.picture_mass))

    @functools.cached_property
    def members(self) -> Float[np.ndarray, "M N"]:
        """1 where the picture is of the class."""
        return np.eye(self.num_classes, dtype=np.float64)[self.label]

    def arrays(self) -> dict[str, np.ndarray]:
        """What goes into a file: the three tables of shares, the masses that they are made of, and what they stand for."""
        return {
            "by_time": self.by_time(), "by_position": self.by_position(), "by_class": self.by_class(),
            "time_mass": self.time_mass, "place_mass": self.place_mass, "times": self.times, "label": self.label,
            "grid": np.array(self.grid), "blocks": np.array(self.blocks), "num_classes": np.array(self.num_classes),
        }  # fmt: skip


def shares(mass: Float[np.ndarray, "... E"]) -> Float[np.ndarray, "... E"]:
    """Every row over its sum; rows of zeros stay."""
    total = mass.sum(axis=-1, keepdims=True, dtype=np.float64)
    return mass / np.where(total > 0, total, 1.0)


def time_grid(process: Process, count: int) -> Float[np.ndarray, " times"]:
    """`count` times, evenly from the process's least to its greatest."""
    if count < 1:
        raise SpecError(f"{count} times cannot be watched; give at least 1.")
    return np.linspace(process.min_time, process.max_time, count).astype(np.float32)


class Watcher:
    """Asks a model for its plans, and counts who processes what.

    model: `apply(params, state, x, time, label, return_plans=True)` gives a `DenoiserOutput`; `num_tokens`, `num_classes`.
    Raises SpecError for a model without experts, or whose layers have different numbers of them.
    Source: ours; Fei et al. 2024, "Scaling Diffusion Transformers to 16 Billion Parameters", section 4 (expert
        specialisation), looks at the same three frequencies.
    """

    def __init__(self, model: Any, process: Process, params: Any, state: Any):
        self.process, self.num_classes, self._weights = process, model.num_classes, (params, state)
        side = round(model.num_tokens**0.5)
        self.grid = (side, side) if side * side == model.num_tokens else (1, model.num_tokens)
        self.blocks: tuple[str, ...] = ()

        def masses(params: Any, state: Any, x: Array, t: Array, label: Array) -> dict[str, Array]:
            output = model.apply(params, state, x, process.model_time(t), label, return_plans=True)
            tokens, batch = model.num_tokens, len(x)
            return {
                name: expert_mass(plan, num_tokens=group_size(plan, batch, tokens), batch=batch)
                for name, plan in output.plans.items()
            }

        def noised_masses(params: Any, state: Any, x: Array, t: Array, label: Array, key: Array) -> dict[str, Array]:
            noise = jax.random.normal(key, x.shape, jnp.float32)
            return masses(params, state, noised(process, x, noise, t), t, label)

        self._states, self._pictures = jax.jit(masses), jax.jit(noised_masses)

    def noised_pictures(
        self,
        batches: Iterable[Mapping[str, np.ndarray]],
        *,
        times: Float[np.ndarray, " times"],
        max_pictures: int = 512,
        seed: int = 0,
    ) -> Usage:
        """Usage on real pictures, each at every time with other noise.

        batches: 'image' float32 [B height width channels] in [-1, 1], 'label', and 'mask' where the last is filled up.
        Whole batches are taken until there are `max_pictures`. Raises SpecError when there are none.
        """
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for number, batch in enumerate(batches):
            images, label, real = fill_padding(batch)
            key = jax.random.fold_in(jax.random.key(seed), number)
            found = (
                self._pictures(*self._weights, images, self._full(t, images), label, jax.random.fold_in(key, i))
                for i, t in enumerate(times)
            )
            parts.append((*self._collect(found, real), label[real]))
            if sum(len(part[2]) for part in parts) >= max_pictures:
                break
        return self._join(parts, times)

    def trajectories(self, paths: Iterable[tuple[Any, Any]], *, times: Float[np.ndarray, " times"]) -> Usage:
        """Usage along sampling. paths: per batch the states that sampling went through [times B height width channels]
        and the classes asked for [B]; times: of the states, in their order.

        Raises SpecError when a path has not one state per time, or there is none.
        """
        order = np.argsort(times)
        parts = []
        for path, label in paths:
            if len(path) != len(times):
                raise SpecError(f"a path of {len(path)} states does not fit {len(times)} times.")
            found = (self._states(*self._weights, path[i], self._full(times[i], path[i]), label) for i in order)
            parts.append((*self._collect(found, np.ones(len(label), bool)), np.asarray(label)))
        return self._join(parts, np.asarray(times)[order])

    def _full(self, t: Any, images: Any) -> Float[Array, " B"]:
        return jnp.full((len(images),), float(t), jnp.float32)

    def _collect(self, found: Iterable[dict[str, Array]], real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mass per time [L B times E], mass per place [L B T E]) of one batch."""
        per_time: list[np.ndarray] = []
        per_place: np.ndarray | float = 0.0
        for masses in found:
            stacked = self._stack(masses)[:, real]
            per_time.append(stacked.sum(axis=2))
            per_place = per_place + stacked
        return np.stack(per_time, axis=2), np.asarray(per_place)

    def _stack(self, masses: dict[str, Array]) -> np.ndarray:
        if not masses:
            raise SpecError("the model has no layer with experts, so there is no usage to show.")
        experts = {name: mass.shape[-1] for name, mass in masses.items()}
        if len(set(experts.values())) > 1:
            raise SpecError(f"the layers have different numbers of experts, {experts}; watch them one by one.")
        self.blocks = tuple(sorted(masses))
        found: Sequence[np.ndarray] = jax.device_get([masses[name] for name in self.blocks])
        return np.stack(found)

    def _join(self, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], times: np.ndarray) -> Usage:
        if not parts:
            raise SpecError("there are no pictures to watch the experts on.")
        per_time, per_place = (np.concatenate([part[i] for part in parts], axis=1) for i in (0, 1))
        label = np.concatenate([part[2] for part in parts]).astype(np.int32)
        return Usage(
            self.blocks, np.asarray(times, np.float32), label, self.num_classes, self.grid, per_time, per_place
        )
