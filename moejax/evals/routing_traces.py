"""Recorded routing: the experts that real tokens chose in every MoE layer, and a small file for them.

The file is an npz without pickles: choices [L N K] in the narrowest signed integers, gates [L N K] float32, num_experts [],
tokens_per_sequence [], blocks [L] and source [] as text. Tokens are in the order of their sequences, so that N cuts into
N / tokens_per_sequence of them, and token n is the same in every layer.
Source: ours.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from moejax.core.errors import SpecError
from moejax.core.plans import TokenChoice
from moejax.evals.npz_files import read_arrays, write_arrays
from moejax.evals.predictions import fill_padding

_FIELDS = ("choices", "gates", "num_experts", "tokens_per_sequence", "blocks", "source")
_REMEDY = "Record one with experiments/record_routing.py."


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoutingTrace:
    """choices: expert of each choice, by preference; -1 where it is not made. gates: its combine weight.

    What routers ask for, before any capacity drops it. blocks: names of the layers. source: the run it was recorded from.
    Raises SpecError for arrays whose shapes or values contradict each other.
    """

    choices: Int[np.ndarray, "L N K"]
    gates: Float[np.ndarray, "L N K"]
    num_experts: int
    tokens_per_sequence: int
    blocks: tuple[str, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if self.choices.ndim != 3 or self.choices.shape != self.gates.shape or 0 in self.choices.shape:
            raise SpecError(
                f"routing trace: choices {list(self.choices.shape)} and gates {list(self.gates.shape)} must both be [L, N, K]."
            )
        if len(self.blocks) != self.choices.shape[0]:
            raise SpecError(f"routing trace: {len(self.blocks)} block names for {self.choices.shape[0]} layers.")
        if self.choices.min() < -1 or self.choices.max() >= self.num_experts:
            found = f"[{self.choices.min()}, {self.choices.max()}]"
            raise SpecError(f"routing trace: choices in {found} must lie in [-1, {self.num_experts - 1}].")
        if self.tokens_per_sequence < 1 or self.choices.shape[1] % self.tokens_per_sequence:
            raise SpecError(
                f"routing trace: {self.choices.shape[1]} tokens are no whole sequences of {self.tokens_per_sequence}."
            )
        if not np.isfinite(self.gates).all():
            raise SpecError("routing trace: a gate is not finite; the run it comes from has failed.")

    def thinned(self, sequences: int) -> "RoutingTrace":
        """At most so many sequences, evenly spread over all. Raises SpecError for less than one."""
        found = self.choices.shape[1] // self.tokens_per_sequence
        if sequences < 1:
            raise SpecError(f"a routing trace of {sequences} sequences holds nothing; keep at least 1 of {found}.")
        kept = np.unique(np.linspace(0, found - 1, min(sequences, found)).round().astype(int))

        def thin(array: np.ndarray) -> np.ndarray:
            by_sequence = array.reshape(len(array), found, self.tokens_per_sequence, -1)
            return by_sequence[:, kept].reshape(len(array), -1, array.shape[-1])

        return dataclasses.replace(self, choices=thin(self.choices), gates=thin(self.gates))

    def loads(self) -> Float[np.ndarray, "L E"]:
        """Share of the choices that each expert gets, by layer; rows sum to one."""
        counts = [np.bincount(layer[layer >= 0], minlength=self.num_experts) for layer in self.choices]
        return np.stack(counts) / np.maximum([[count.sum()] for count in counts], 1)


def record(
    model: Any,
    params: Any,
    state: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    num_tokens: int,
    source: str = "",
) -> RoutingTrace:
    """The choices of a picture model, in evaluation, on batches of {'image', 'label'[, 'mask']}; masked rows are left out.

    num_tokens: tokens per picture that the blocks see. Raises SpecError for a model whose plans are not of token choice, and
    without a batch.
    """

    @jax.jit
    def plans(params: Any, state: Any, images: jax.Array) -> dict[str, Any]:
        return model.apply(params, state, images, return_plans=True).plans

    parts: list[tuple[np.ndarray, ...]] = []
    blocks: tuple[str, ...] = ()
    experts = 0
    for batch in batches:
        images, _, real = fill_padding(batch)
        found = plans(params, state, images)
        if not found or not all(isinstance(plan, TokenChoice) for plan in found.values()):
            kinds = sorted({type(plan).__name__ for plan in found.values()}) or "no experts"
            raise SpecError(f"a routing trace holds choices of tokens; this model has {kinds}.")
        blocks, experts = tuple(found), next(iter(found.values())).num_experts
        layers = [jax.device_get((plan.expert, plan.weight)) for plan in found.values()]
        parts.append(
            tuple(np.stack([_real(a, real, num_tokens) for a in arrays]) for arrays in zip(*layers, strict=True))
        )
    if not parts:
        raise SpecError("record got no batch; the split is empty.")
    choices, gates = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return RoutingTrace(
        choices=choices.astype(np.int32), gates=gates.astype(np.float32), num_experts=experts,
        tokens_per_sequence=num_tokens, blocks=blocks, source=source,
    )  # fmt: skip


def save(path: str | Path, trace: RoutingTrace) -> None:
    """Writes the file, whole or not at all."""
    narrow = np.min_scalar_type(-trace.num_experts)
    write_arrays(
        path,
        {
            "choices": trace.choices.astype(narrow),
            "gates": trace.gates.astype(np.float32),
            "num_experts": np.asarray(trace.num_experts),
            "tokens_per_sequence": np.asarray(trace.tokens_per_sequence),
            "blocks": np.asarray(trace.blocks),
            "source": np.asarray(trace.source),
        },
    )


def load(path: str | Path) -> RoutingTrace:
    """Choices int32, gates float32. Raises SpecError for a file that is missing, damaged or holds no trace."""
    arrays = read_arrays(path, _FIELDS, what="recorded routing", remedy=_REMEDY)
    for name, kinds in (("choices", "iu"), ("gates", "f"), ("num_experts", "iu"), ("tokens_per_sequence", "iu")):
        if arrays[name].dtype.kind not in kinds:
            raise SpecError(f"{path}: {name} are of type {arrays[name].dtype}. {_REMEDY}")
    return RoutingTrace(
        choices=arrays["choices"].astype(np.int32),
        gates=arrays["gates"].astype(np.float32),
        num_experts=int(arrays["num_experts"]),
        tokens_per_sequence=int(arrays["tokens_per_sequence"]),
        blocks=tuple(str(name) for name in arrays["blocks"]),
        source=str(arrays["source"]),
    )


def _real(array: np.ndarray, real: np.ndarray, num_tokens: int) -> np.ndarray:
    """[G S K] of whole pictures -> [N K] of the real ones."""
    return array.reshape(len(real), num_tokens, array.shape[-1])[real].reshape(-1, array.shape[-1])
