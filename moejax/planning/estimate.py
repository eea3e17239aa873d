"""Whether a step fits a chip, and the least time that its arithmetic, its memory and its wires need.

Source: ours; bounds as in the roofline model, Williams, Waterman and Patterson 2009.
"""

import dataclasses
from typing import Any

from moejax.planning.chips import Chip
from moejax.planning.collectives import bytes_by_kind
from moejax.planning.step import Step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one mesh. Bytes and FLOPs are of one chip and one step; seconds are bounds from below, not forecasts.

    flops: of the products that the step really does, padding of buffers included; activated_flops: without it.
    sent: bytes by kind of collective. peak: None where nothing was compiled; then `needed` is arithmetic over shapes.
    """

    mesh: str
    held: dict[str, int]
    peak: int | None
    needed: float
    limit: float
    flops: float
    activated_flops: float
    sent: dict[str, float]
    compute_seconds: float
    memory_seconds: float
    wire_seconds: float
    compile_seconds: float
    out_of_memory: str | None

    @property
    def fits(self) -> bool:
        return self.out_of_memory is None and self.needed <= self.limit

    @property
    def bound_seconds(self) -> float:
        """The least time of a step where all three overlap perfectly."""
        return max(self.compute_seconds, self.memory_seconds, self.wire_seconds)

    @property
    def bound_by(self) -> str:
        bounds = {"compute": self.compute_seconds, "memory": self.memory_seconds, "wire": self.wire_seconds}
        return max(bounds, key=bounds.__getitem__)

    def to_dict(self) -> dict[str, Any]:
        derived = {"fits": self.fits, "bound_seconds": self.bound_seconds, "bound_by": self.bound_by}
        return dataclasses.asdict(self) | derived


def estimate(
    mesh: str, step: Step, chip: Chip, *, flops: float, activated_flops: float, activation_bytes: float
) -> Estimate:
    """flops, activated_flops: of a chip's share of the step. activation_bytes: of its share of the batch, where nothing was compiled."""
    kept = sum(step.held.values())
    needed = float(step.peak) if step.peak is not None else kept + activation_bytes
    sent = bytes_by_kind(list(step.collectives))
    # What stays is read and written once, what is temporary written and read.
    moved = 2 * kept + 2 * (step.temporaries if step.temporaries is not None else activation_bytes)
    return Estimate(
        mesh=mesh,
        held=step.held,
        peak=step.peak,
        needed=needed,
        limit=float(chip.memory),
        flops=flops,
        activated_flops=activated_flops,
        sent=sent,
        compute_seconds=flops / chip.flops,
        memory_seconds=moved / chip.bandwidth,
        wire_seconds=sum(sent.values()) / chip.link,
        compile_seconds=step.seconds,
        out_of_memory=step.out_of_memory,
    )


def verdict(found: Estimate) -> str:
    """'fits', or by how much it does not and what to try."""
    if found.fits:
        return f"fits: {gib(found.needed)} of {gib(found.limit)}"
    ways = "more chips along fsdp or expert, train.accumulate_steps, model.remat=True, or a smaller batch"
    if found.out_of_memory is not None:
        return f"does not fit ({found.out_of_memory}); try {ways}"
    return f"does not fit: short by {gib(found.needed - found.limit)} of {gib(found.limit)}; try {ways}"


def best(found: list[Estimate]) -> Estimate | None:
    """The one that fits with the least bound, the first of equals; None where none fits."""
    return min((one for one in found if one.fits), key=lambda one: one.bound_seconds, default=None)


def table(found: list[Estimate]) -> str:
    """One row per mesh, in Markdown."""
    head = ("mesh", "held", "peak", "sent", "FLOPs", "of activated", "compute ms", "memory ms", "wire ms", "bound by")
    lines = [head, ("---",) * len(head), *(_cells(one) for one in found)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(one: Estimate) -> tuple[str, ...]:
    seconds = (one.compute_seconds, one.memory_seconds, one.wire_seconds)
    sizes = (sum(one.held.values()), one.needed, sum(one.sent.values()))
    times = (f"{1e3 * second:.2f}" for second in seconds)
    bound = one.bound_by + ("" if one.fits else ", does not fit")
    return (one.mesh, *map(gib, sizes), f"{one.flops:.3g}", f"{one.flops / one.activated_flops:.3f}", *times, bound)


def gib(size: int | float) -> str:
    """'1.25 GiB', or in MiB below a hundredth of one."""
    return f"{size / 2**30:.2f} GiB" if size >= 0.01 * 2**30 or not size else f"{size / 2**20:.2f} MiB"
