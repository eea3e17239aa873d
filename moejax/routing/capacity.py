"""Capacity: how many slots an expert has per group, from a capacity factor."""

import dataclasses
import math
from typing import Literal

from moejax.core.errors import SpecError

Rounding = Literal["ceil", "round"]


def check_capacity_factor(name: str, value: float | None) -> None:
    """Raises SpecError unless `value` is None or a positive finite number."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise SpecError(f"{name}={value} must be positive and finite (1.0: just enough slots under perfect balance).")


def check_capacity_multiple(value: int) -> None:
    """Raises SpecError unless `value` is at least 1."""
    if value < 1:
        raise SpecError(f"capacity_multiple={value} must be at least 1 (1: do not round up).")


def slots_per_expert(
    capacity_factor: float,
    *,
    num_tokens: int,
    num_experts: int,
    num_selected_experts: int = 1,
    multiple: int = 1,
    rounding: Rounding = "ceil",
) -> int:
    """C = rounding(capacity_factor * S * K / E), then up to a multiple, and never more than S.

    num_tokens: S, tokens of a group. rounding: 'ceil', or 'round' (halves up). multiple: 4 in the released V-MoE.
    Raises SpecError when the rounded capacity is zero.
    Source: Riquelme et al. 2021, section 2.4 and appendix B (B_e = round(K N P C / E)), and the released code (ceil,
    multiple of 4). Deviations: clipped at S, since an expert can see a token once only.
    """
    share = capacity_factor * num_tokens * num_selected_experts / num_experts
    slack = 1e-9 * share  # 1.1 * 10 is a little above 11 in binary; that must not cost a slot
    capacity = math.ceil(share - slack) if rounding == "ceil" else math.floor(share + 0.5 + slack)
    if capacity < 1:
        least = num_experts / (2 * num_tokens * num_selected_experts)
        raise SpecError(
            f"capacity_factor={capacity_factor} gives {share:.3g} slots per expert, which rounds to zero "
            f"({num_tokens} tokens per group, {num_selected_experts} selected of {num_experts} experts). "
            f"Use capacity_factor >= {least:.3g}, or larger groups."
        )
    return min(capacity + -capacity % multiple, num_tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenChoiceCapacity:
    """The capacity fields that token-choice routers share.

    capacity_factor: slots per expert and group, as a factor of S K / E; None: dropless.
    eval_capacity_factor: the same without a key: 'train' (same as capacity_factor), a number, or None (dropless).
    capacity_multiple, capacity_rounding: see `slots_per_expert`.
    """

    capacity_factor: float | None = None
    eval_capacity_factor: float | Literal["train"] | None = "train"
    capacity_multiple: int = 1
    capacity_rounding: Rounding = "ceil"

    def check_capacity(self) -> None:
        """Raises SpecError for a factor that is not positive or a multiple below 1."""
        check_capacity_factor("capacity_factor", self.capacity_factor)
        check_capacity_factor("eval_capacity_factor", self.factor(training=False))
        check_capacity_multiple(self.capacity_multiple)

    def factor(self, *, training: bool) -> float | None:
        """The factor that holds; None: dropless."""
        if training or self.eval_capacity_factor == "train":
            return self.capacity_factor
        return self.eval_capacity_factor

    @property
    def always_dropless(self) -> bool:
        """No token is ever dropped, neither in training nor in evaluation."""
        return self.factor(training=True) is None and self.factor(training=False) is None

    def capacity(self, num_tokens: int, num_experts: int, num_selected_experts: int, *, training: bool) -> int | None:
        """C for groups of `num_tokens`, None when dropless. Raises SpecError when it rounds to zero."""
        factor = self.factor(training=training)
        if factor is None:
            return None
        return slots_per_expert(
            factor,
            num_tokens=num_tokens,
            num_experts=num_experts,
            num_selected_experts=num_selected_experts,
            multiple=self.capacity_multiple,
            rounding=self.capacity_rounding,
        )
