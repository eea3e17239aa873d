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

    flops: of the products that the compiled step really does, padding of buffers and what is computed again included; where
    nothing was compiled (or a kernel hides its cost, `counted` is False) by arithmetic. again_flops: what the backward pass
    computes a second time. activated_flops: of the forward pass and the two of gradients, without either.
    sent: bytes by kind of collective. peak: None where nothing was compiled; then `needed` is arithmetic over shapes.
    compiler_seconds: the compiler's own estimate of the step, None where it means nothing.
    """

    mesh: str
    held: dict[str, int]
    peak: int | None
    needed: float
    limit: float
    flops: float
    again_flops: float
    counted: bool
    activated_flops: float
    sent: dict[str, float]
    compute_seconds: float
    memory_seconds: float
    wire_seconds: float
    compile_seconds: float
    compiler_seconds: float | None
    out_of_memory: str | None

    @property
    def executed_of_activated(self) -> float:
        """FLOPs of the step, once each, over those that the model's tokens need: 1 without padding."""
        return (self.flops - self.again_flops) / self.activated_flops

    @property
    def fits(self) -> bool:
        return self.out_of_memory is None and self.needed <= self.limit

    @property
    def bound_seconds(self) -> float:
        """The least time of a step where all three overlap perfectly."""
        return max(self.compute_seconds, self.memory_seconds, self.wire_seconds)

    @property
    def sum_seconds(self) -> float:
        """The least time of a step where nothing overlaps."""
        return self.compute_seconds + self.memory_seconds + self.wire_seconds

    @property
    def bound_by(self) -> str:
        bounds = {"compute": self.compute_seconds, "memory": self.memory_seconds, "wire": self.wire_seconds}
        return max(bounds, key=bounds.__getitem__)

    def to_dict(self) -> dict[str, Any]:
        names = ("fits", "bound_seconds", "sum_seconds", "bound_by", "executed_of_activated")
        derived = {name: getattr(self, name) for name in names}
        return dataclasses.asdict(self) | derived


def estimate(
    mesh: str,
    step: Step,
    chip: Chip,
    *,
    padding_flops: float,
    again_flops: float,
    activated_flops: float,
    activation_bytes: float,
) -> Estimate:
    """FLOPs of a chip's share of the step, by arithmetic; counted ones go before them.

    activation_bytes: of its share of the batch, where nothing was compiled.
    """
    counted = step.products is not None and step.products.total is not None
    flops = activated_flops + padding_flops + again_flops
    if step.products is not None and step.products.total is not None:
        flops, again_flops = step.products.total, step.products.again
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
        again_flops=again_flops,
        counted=counted,
        activated_flops=activated_flops,
        sent=sent,
        compute_seconds=flops / chip.flops,
        memory_seconds=moved / chip.bandwidth,
        wire_seconds=sum(sent.values()) / chip.link,
        compile_seconds=step.seconds,
        compiler_seconds=step.compiler_seconds,
        out_of_memory=step.out_of_memory,
    )


def verdict(found: Estimate) -> str:
    """'fits', or by how much it does not and what to try."""
    if found.fits:
        return f"fits: {gib(found.needed)} of {gib(found.limit)}"
    ways = "more chips along fsdp or expert, train.accumulate_steps, model.remat='full', or a smaller batch"
    if found.out_of_memory is not None:
        return f"does not fit ({found.out_of_memory}); try {ways}"
    return f"does not fit: short by {gib(found.needed - found.limit)} of {gib(found.limit)}; try {ways}"


def best(found: list[Estimate]) -> Estimate | None:
    """The one that fits with the least bound, the first of equals; None where none fits."""
    return min((one for one in found if one.fits), key=lambda one: one.bound_seconds, default=None)


def table(found: list[Estimate]) -> str:
    """One row per mesh, in Markdown."""
    head = ("mesh", "held", "peak", "sent", "FLOPs", "of activated", "again", "compute ms", "memory ms", "wire ms", "compiler ms",
            "bound by")  # fmt: skip
    lines = [head, ("---",) * len(head), *(_cells(one) for one in found)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(one: Estimate) -> tuple[str, ...]:
    seconds = (one.compute_seconds, one.memory_seconds, one.wire_seconds)
    sizes = (sum(one.held.values()), one.needed, sum(one.sent.values()))
    times = (f"{1e3 * second:.2f}" for second in seconds)
    compiler = "n/a" if one.compiler_seconds is None else f"{1e3 * one.compiler_seconds:.2f}"
    bound = one.bound_by + ("" if one.fits else ", does not fit")
    ratio = f"{one.executed_of_activated:.3f}" + ("" if one.counted or one.peak is None else " (arithmetic)")
    flops = f"{one.flops:.3g}", ratio, f"{one.again_flops / one.activated_flops:.3f}"
    return (one.mesh, *map(gib, sizes), *flops, *times, compiler, bound)


def gib(size: int | float) -> str:
    """'1.25 GiB', or in MiB below a hundredth of one."""
    return f"{size / 2**30:.2f} GiB" if size >= 0.01 * 2**30 or not size else f"{size / 2**20:.2f} MiB"
