"""Capacity: how many slots an expert has per group, from a capacity factor."""

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
            f"Use capacity_factor >= {least:.3g}, a larger group, or capacity_rounding='ceil'."
        )
    return min(capacity + -capacity % multiple, num_tokens)
