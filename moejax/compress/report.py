"""What a compression did, weight by weight.

Source: ours.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class WeightReport:
    """One weight, or one bank of experts.

    ranks: one per matrix, None where it stayed dense; empty where the method has no ranks. params, flops: numbers, and
    FLOPs per row (in a bank of a row of the mean expert). own_error: of the kernel, relative, in the norm in which the method
    is optimal; plain_error: in the Frobenius norm; None where it has no meaning. seconds: spent on it.
    """

    name: str
    shape: tuple[int, ...]
    ranks: tuple[int | None, ...]
    params_before: int
    params_after: int
    flops_before: int
    flops_after: int
    own_error: float | None
    plain_error: float | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Report:
    """All weights that were matched. budget: the fraction asked for; before, allowed, after: in `unit`.

    warnings: what the user was warned of.
    """

    method: str
    allocation: str
    unit: str
    budget: float
    before: float
    allowed: float
    after: float
    weights: tuple[WeightReport, ...]
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Spent on all weights."""
        return sum(weight.seconds for weight in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self) | {"seconds": self.seconds}

    def __str__(self) -> str:
        lines = [
            f"{self.method}: {self.after:.6g} of {self.before:.6g} {self.unit} left "
            f"({self.after / self.before:.2%}, allowed {self.budget:.2%}), {self.seconds:.1f} s"
        ]
        for weight in self.weights:
            known = [("own", weight.own_error), ("plain", weight.plain_error)]
            errors = ", ".join(f"{name} {error:.2%}" for name, error in known if error is not None)
            lines.append(
                f"  {weight.name} {list(weight.shape)}: {_ranks(weight.ranks)}{weight.params_before} -> "
                f"{weight.params_after} parameters" + (f", error {errors}" if errors else "")
            )
        return "\n".join(lines)


def _ranks(ranks: tuple[int | None, ...]) -> str:
    if not ranks:
        return ""
    if None in ranks:
        return "dense, "
    known = [rank for rank in ranks if rank is not None]
    return f"rank {known[0]}, " if len(set(known)) == 1 else f"ranks {min(known)} to {max(known)}, "
