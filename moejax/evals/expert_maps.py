"""Expert maps: which expert looked at which part of a picture, from the assignments that happened after capacity."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from moejax.core.errors import SpecError
from moejax.core.plans import Merge, Plan, SlotMix
from moejax.dispatch.assignment import realised


@dataclasses.dataclass(frozen=True)
class ExpertMaps:
    """Maps of B pictures on a grid of h x w patches.

    expert: the expert with the largest combine weight, -1 where no expert processed the patch.
    weight: that expert's combine weight; for mixtures its share of all weights. served: experts that processed the patch.
    kind: 'routed' (patches are sent to experts) or 'mixed' (every expert sees every patch with some weight).
    """

    expert: Int[np.ndarray, "B h w"]
    weight: Float[np.ndarray, "B h w"]
    served: Int[np.ndarray, "B h w"]
    num_experts: int
    kind: str

    def take(self, count: int) -> "ExpertMaps":
        """The maps of the first `count` pictures."""
        return dataclasses.replace(
            self, expert=self.expert[:count], weight=self.weight[:count], served=self.served[:count]
        )


def expert_maps(plan: Plan, *, batch: int, grid: tuple[int, int], num_tokens: int) -> ExpertMaps:
    """Maps of a plan for `batch` pictures of `num_tokens` tokens, the last h * w of which are the patches in row order.

    Tokens before the patches (a class token) are left out.
    Raises SpecError when there are fewer tokens than patches.
    Source: ours; V-MoE (Riquelme et al. 2021, figures 1 and 33) and Soft MoE (appendix on slots) show similar pictures.
    """
    patches = grid[0] * grid[1]
    if num_tokens < patches:
        raise SpecError(f"{num_tokens} tokens cannot cover a grid of {grid[0]} x {grid[1]} = {patches} patches.")
    groups = jax.tree.leaves(plan)[0].shape[0]
    weight = np.asarray(realised(plan, num_tokens=batch * num_tokens // groups), np.float32)
    weight = weight.reshape(batch, num_tokens, -1)[:, -patches:]
    mixed = isinstance(plan, (SlotMix, Merge))
    size = np.abs(weight)
    best = size.argmax(-1)
    served = (size > 0).sum(-1)
    top = np.take_along_axis(size, best[..., None], -1)[..., 0]
    if mixed:
        top = top / np.maximum(size.sum(-1), 1e-12)
    shape = (batch, *grid)
    return ExpertMaps(
        expert=np.where(served > 0, best, -1).reshape(shape).astype(np.int32),
        weight=top.reshape(shape).astype(np.float32),
        served=served.reshape(shape).astype(np.int32),
        num_experts=weight.shape[-1],
        kind="mixed" if mixed else "routed",
    )


def slot_maps(plan: SlotMix, *, batch: int, grid: tuple[int, int], num_tokens: int) -> Float[np.ndarray, "B E C h w"]:
    """Dispatch weight of every patch in every slot. Source: Puigcerver et al. 2024, section 2.1 (the matrix D)."""
    patches = grid[0] * grid[1]
    dispatch = np.asarray(plan.dispatch, np.float32)
    if dispatch.shape[:2] != (batch, num_tokens):
        raise SpecError(f"slot maps need one picture per group; the plan has groups {dispatch.shape[:2]}.")
    slots = np.moveaxis(dispatch[:, -patches:], 1, -1)
    return slots.reshape(*slots.shape[:3], *grid)


def upscale(image: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel becomes a square of `factor` x `factor` (nearest neighbour); the first two axes are rows and columns."""
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    expert: Int[np.ndarray, "h w"],
    weight: Float[np.ndarray, "h w"],
    colours: UInt8[np.ndarray, "E 3"],
    *,
    factor: int = 8,
    strength: tuple[float, float] = (0.35, 0.75),
    full_weight: float = 1.0,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The picture, enlarged by `factor`, with every patch tinted by its expert.

    The tint's opacity runs over `strength` as the weight runs from 0 to `full_weight`. Patches without an expert are
    grey with dark diagonal stripes; a thin line separates neighbours of different experts.
    Raises SpecError when the grid does not divide the picture.
    """
    rows, columns = expert.shape
    if image.shape[0] % rows or image.shape[1] % columns:
        raise SpecError(f"a grid of {rows} x {columns} does not divide a picture of {image.shape[:2]}.")
    big = upscale(image, factor).astype(np.float32)
    patch = (big.shape[0] // rows, big.shape[1] // columns)

    def enlarge(values: np.ndarray) -> np.ndarray:
        return np.repeat(np.repeat(values, patch[0], axis=0), patch[1], axis=1)

    luminance = big @ np.array([0.299, 0.587, 0.114], np.float32)
    base = 48.0 + 0.8 * (0.25 * big + 0.75 * luminance[..., None])  # a pale print: its colours must not compete
    low, high = strength
    alpha = low + (high - low) * np.clip(weight / max(full_weight, 1e-12), 0.0, 1.0)
    alpha = enlarge(alpha)[..., None].astype(np.float32)
    tinted = (1 - alpha) * base + alpha * enlarge(colours[np.maximum(expert, 0)].astype(np.float32))
    y, x = np.indices(big.shape[:2])
    period = max(4, patch[0] // 3)
    stripes = np.where(((x + y) % period < max(1, period // 4))[..., None], 90.0, 205.0)
    result = np.where((enlarge(expert) < 0)[..., None], stripes, tinted)
    owner = enlarge(expert)
    line = np.zeros(owner.shape, bool)
    line[1:] |= owner[1:] != owner[:-1]
    line[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    result[line] = 0.25 * result[line] + 0.75 * 255.0
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)
