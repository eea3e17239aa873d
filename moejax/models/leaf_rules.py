"""From the leaves of one model to those of another, by rules over leaf names: (regex, rule), the first that matches wins.

Names are those of single layers ('blocks/03/moe/router/kernel'), however either side stacks them. A leaf that no rule names is
loaded. A rule is a name ('fresh') or {'name': 'copy_experts', 'noise_std': 0.01}; every match is logged and returned.
  load               the source's leaf, of the same shape; source: its name there, where it is another (a template with the regex's groups)
  fresh, zeros       as the target initialises it (a new head); zeros
  resize_positions   a learned table of positions, brought to the target's grid; the class token's entry is kept
  copy_experts       every expert of 'moe/experts/...' is the layer's 'feed_forward/...', with noise or exactly
  virtual_groups     experts of 1/G of the width are the G parts of the layer's MLP, again and again; its router's columns too
Source: first match wins and is logged, as in big_vision `utils.py`; resize: google-research/vision_transformer `checkpoint.py` (linear
    between corners, as `scipy.ndimage.zoom(order=1)`); copies: Komatsuzaki et al. 2023, "Sparse Upcycling", section 3; virtual groups: He
    et al. 2024, "Upcycling Large Language Models into Mixture of Experts", section on fine-grained upcycling.
Deviations: virtual groups put the whole scale on the output kernels, where it is exact whatever the activation; He et al. spread it
    over an MLP's two kernels as square roots (three: cube roots). Our outputs then are the dense model's also in the bias, of
    which each part takes 1/G.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.rng import named
from moejax.core.spec import build_spec


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What a rule sees: the target's leaf `name` with its fresh value (or shape), and the source's leaves by name.

    used: names of the source's leaves that some rule took.
    """

    name: str
    fresh: Any
    source: Mapping[str, Any]
    key: PRNGKeyArray
    used: set[str]

    def taken(self, name: str) -> np.ndarray:
        """The source's leaf `name`. Raises SpecError when there is none."""
        if name not in self.source:
            raise SpecError(f"{self.name}: the source has no leaf {name!r}.{_near(name, self.source)}")
        self.used.add(name)
        return np.asarray(self.source[name])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """source: another name of it, a template of `re.Match.expand`."""

    source: str | None = None

    def apply(self, leaf: Leaf, match: re.Match[str] | None) -> Any:
        return leaf.taken(match.expand(self.source) if self.source is not None and match is not None else leaf.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fresh:
    """As the target was initialised."""

    def apply(self, leaf: Leaf, match: re.Match[str] | None) -> Any:
        return leaf.fresh


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zeros:
    """Zeros, such as the output of a shared expert beside copies."""

    def apply(self, leaf: Leaf, match: re.Match[str] | None) -> Any:
        return np.zeros(leaf.fresh.shape, leaf.fresh.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizePositions:
    """class_token: whether the first entry is the class token's; None: it is where the length is no square without it."""

    class_token: bool | None = None

    def apply(self, leaf: Leaf, match: re.Match[str] | None) -> Any:
        return resize_positions(leaf.taken(leaf.name), leaf.fresh.shape[1], class_token=self.class_token)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopyExperts:
    """noise_std: standard deviation of Gaussian noise, in units of each leaf's own; 0 for exact copies."""

    noise_std: float = 0.0

    def __post_init__(self) -> None:
        if not self.noise_std >= 0:
            raise SpecError(f"copy_experts: noise_std={self.noise_std} must not be negative.")

    def apply(self, leaf: Leaf, match: re.Match[str] | None) -> Any:
        mlp = leaf.taken(_dense_name(leaf.name))
        copies = np.broadcast_to(mlp, (leaf.fresh.shape[0], *mlp.shape))
        if self.noise_std == 0.0:
            return copies
        noise = np.asarray(jax.random.normal(named(leaf.key, leaf.name), copies.shape, mlp.dtype))
        return copies + np.asarray(self.noise_std * mlp.std(), mlp.dtype) * noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class VirtualGroups:
    """Expert g + G e is part g of copy e of the MLP; its router column is that of the copy, so that parts are chosen together.

    num_parts: G. num_selected_experts: K, a multiple of G: K / G copies are chosen whole. gates: 'sum_to_one' (renormalised,
    or top-k then softmax; outputs times G, exactly the dense model), or 'softmax' over all N experts (times N G / K, exactly so
    for an indifferent router). He et al. write the latter E G^2 / T with N = E G experts, T = K.
    """

    num_parts: int
    num_selected_experts: int
    gates: Literal["softmax", "sum_to_one"] = "softmax"

    def __post_init__(self) -> None:
        if self.num_parts < 1 or self.num_selected_experts < 1 or self.num_selected_experts % self.num_parts:
            raise SpecError(
                f"virtual_groups: num_selected_experts={self.num_selected_experts} must be a multiple of num_parts="
                f"{self.num_parts}, so that a token meets every part of the MLP equally often."
            )

    def apply(self, leaf: Leaf, match: re.Match[str] | None) -> Any:
        parts = self.num_parts
        if "/router/" in leaf.name:
            shape = leaf.fresh.shape
            if shape[-1] % parts:
                raise SpecError(f"{leaf.name}: num_parts={parts} does not divide {shape[-1]} experts.")
            if isinstance(leaf.fresh, jax.ShapeDtypeStruct):
                return leaf.fresh
            return jnp.repeat(leaf.fresh[..., ::parts], parts, axis=-1)
        mlp, number = leaf.taken(_dense_name(leaf.name)), leaf.fresh.shape[0]
        if number % parts:
            raise SpecError(f"{leaf.name}: num_parts={parts} does not divide {number} experts.")
        scale = parts * (1.0 if self.gates == "sum_to_one" else number / self.num_selected_experts)
        if leaf.name.endswith("down_bias"):
            own = np.stack([mlp * np.asarray(scale / parts, mlp.dtype)] * parts)
        else:
            output = "/experts/down" in leaf.name
            axis = 0 if output else -1
            if mlp.shape[axis] % parts:
                raise SpecError(f"{leaf.name}: num_parts={parts} does not divide the MLP's width {mlp.shape[axis]}.")
            own = np.stack(np.split(mlp * np.asarray(scale, mlp.dtype) if output else mlp, parts, axis))
        return np.concatenate([own] * (number // parts))


RULES: Mapping[str, type] = {
    "load": Load,
    "fresh": Fresh,
    "zeros": Zeros,
    "resize_positions": ResizePositions,
    "copy_experts": CopyExperts,
    "virtual_groups": VirtualGroups,
}


def build_rules(rules: Sequence[Any]) -> tuple[tuple[str, Any], ...]:
    """(regex, rule) pairs of (regex, name or {'name': ...}). Raises SpecError for an unknown rule or field."""
    built = []
    for i, pair in enumerate(rules):
        if isinstance(pair, str) or len(pair) != 2 or not isinstance(pair[0], str):
            raise SpecError(f"rules[{i}]={pair!r} must be a pair (regex over leaf names, rule).")
        pattern, rule = pair
        fields = {"name": rule} if isinstance(rule, str) else dict(rule)
        name = fields.pop("name", "")
        if name not in RULES:
            raise SpecError(f"rules[{i}]: {name!r} is no rule.{did_you_mean(str(name), RULES)}")
        built.append((pattern, build_spec(RULES[name], fields, path=f"rules[{i}]")))
    return tuple(built)


def resize_positions(
    table: Float[np.ndarray, "1 T D"], length: int, *, class_token: bool | None = None
) -> Float[np.ndarray, "1 T2 D"]:
    """A table of a square grid for another square grid of `length` entries, linear between corners.

    Raises SpecError when a length is no square of patches, with or without a class token as it says.
    """
    if class_token is None:
        class_token = math.isqrt(table.shape[1]) ** 2 != table.shape[1]
    first, grid = table[:, : int(class_token)], table[0, int(class_token) :]
    old, new = math.isqrt(len(grid)), math.isqrt(length - int(class_token))
    if old**2 != len(grid) or new**2 != length - int(class_token):
        raise SpecError(f"positions: {table.shape[1]} -> {length} entries, of which {int(class_token)} is the class token's, are "
                        "no squares of patches.")  # fmt: skip
    weights = np.zeros((new, old))
    for i, place in enumerate(np.linspace(0, old - 1, new)):
        low = min(int(place), old - 1)
        weights[i, low] += 1 - (place - low)
        if place > low:
            weights[i, low + 1] += place - low
    square = grid.reshape(old, old, -1).astype(np.float64)
    resized = np.einsum("ij,kl,jlD->ikD", weights, weights, square).reshape(1, new**2, -1)
    return np.concatenate([first, resized.astype(table.dtype)], axis=1)


def _dense_name(name: str) -> str:
    if "/moe/experts/" not in name:
        raise SpecError(
            f"{name} is no leaf of a bank of experts ('.../moe/experts/...'), so no MLP can be copied there."
        )
    return name.replace("/moe/experts/", "/feed_forward/")


def _near(name: str, leaves: Mapping[str, Any]) -> str:
    hint = did_you_mean(name, leaves)
    return hint.partition(" Allowed:")[0]
