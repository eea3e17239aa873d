"""Limits of router fields, checked when a spec is built."""

import math

from moejax.core.errors import SpecError


def check_num_experts(num_experts: int) -> None:
    """Raises SpecError unless there is at least one expert."""
    if num_experts < 1:
        raise SpecError(f"num_experts={num_experts} must be at least 1.")


def check_num_selected(num_selected_experts: int, num_experts: int) -> None:
    """Raises SpecError unless 1 <= K <= E."""
    check_num_experts(num_experts)
    if num_selected_experts < 1:
        raise SpecError(f"num_selected_experts={num_selected_experts} must be at least 1.")
    if num_selected_experts > num_experts:
        raise SpecError(
            f"num_selected_experts={num_selected_experts} is more than num_experts={num_experts}: "
            f"a token cannot choose an expert twice. Use at most {num_experts}, or more experts."
        )


def check_not_negative(**fields: float) -> None:
    """Raises SpecError naming the first field that is negative or not finite."""
    for name, value in fields.items():
        if not (value >= 0 and math.isfinite(value)):
            raise SpecError(f"{name}={value} must be finite and not negative (0 switches it off).")
