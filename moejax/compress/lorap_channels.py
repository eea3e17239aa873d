"""LoRAP's half for feed-forward layers: hidden channels pruned by weights times activations, the least important one kept.

Source: Li et al. 2024, "LoRAP: Transformer Sub-Layers Deserve Differentiated Structured Compression for Large Language
    Models", section 3.3: |W_ij| ||X_j||_2 summed in squares over all weights of a channel; of what stays, a part as large as
    1 % of the channels is taken from the least important end. Its other half, for attention, is `lorap`.
Deviations: every expert of a bank keeps equally many channels, so that the leaves stay dense.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moejax.compress.statistics import Statistics
from moejax.compress.weighted_method import field
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class LorapChannels:
    """A bank with fewer hidden channels F.

    least_important: the part of F that is kept from the least important end; 0 keeps only the most important ones.
    Raises SpecError for a part outside [0, 1).
    """

    needs: ClassVar[tuple[str, ...]] = ("second_moment",)

    least_important: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.least_important < 1:
            raise SpecError(f"least_important={self.least_important} must be in [0, 1).")

    def compress_bank(self, bank: dict[str, Any], statistics: Statistics, *, num_params: int) -> dict[str, Any]:
        """The bank with the channels that `num_params` pays for. Raises SpecError when that is less than one per expert."""
        arrays = {name: _array(node) for name, node in bank.items() if name != "router"}
        experts, width = arrays["up"].shape[0], arrays["up"].shape[2]
        fixed = sum(array.size for name, array in arrays.items() if _channel_axis(name) is None)
        each = sum(array.size // width for name, array in arrays.items() if _channel_axis(name) is not None)
        channels = min((num_params - fixed) // each, width)
        if channels < 1:
            raise SpecError(
                f"lorap_channels: num_params={num_params} is not reachable; the smallest is {fixed + each} (one channel in "
                f"each of {experts} experts)."
            )
        kept = np.stack([
            choose(_importance(arrays, statistics, expert), channels, round(self.least_important * width))
            for expert in range(experts)
        ])  # fmt: skip
        return {name: _cut(bank[name], array, _channel_axis(name), kept) for name, array in arrays.items()}


def choose(importance: Float[np.ndarray, "F"], channels: int, from_the_end: int) -> np.ndarray:
    """The channels that stay, in rising order: the most important ones, and `from_the_end` of the least important."""
    order = np.argsort(-importance, kind="stable")
    last = min(from_the_end, channels)
    return np.sort(np.concatenate([order[: channels - last], order[len(order) - last :]]))


def _importance(arrays: dict[str, np.ndarray], statistics: Statistics, expert: int) -> Float[np.ndarray, "F"]:
    """Per hidden channel: the root of the sum over its weights of (|W| ||X||)^2."""
    total = np.zeros(arrays["up"].shape[2])
    for name in ("up", "gate", "down"):
        if name in arrays:
            kernel = arrays[name][expert].astype(np.float64)
            moment = field(statistics[name].expert(expert) if name in statistics else None, "second_moment")
            squares = kernel**2 * np.diagonal(moment)[:, None]
            total += squares.sum(1 if name == "down" else 0)
    return np.sqrt(total)


def _channel_axis(name: str) -> int | None:
    """Where a kernel or bias of an expert [...] has its hidden channels."""
    return {"up": 1, "gate": 1, "down": 0, "up_bias": 0, "gate_bias": 0}.get(name)


def _array(node: Any) -> np.ndarray:
    return np.asarray(node.materialise() if hasattr(node, "materialise") else node)


def _cut(node: Any, array: np.ndarray, axis: int | None, kept: np.ndarray) -> Any:
    if axis is None or kept.shape[1] == array.shape[axis + 1]:
        return node
    cut = jnp.asarray(np.stack([np.take(one, own, axis) for one, own in zip(array, kept, strict=True)]))
    return Dense(cut) if hasattr(node, "materialise") else cut


EXAMPLES = (LorapChannels(), LorapChannels(least_important=0.0))
