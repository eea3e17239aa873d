import pytest

from moejax.core.errors import SpecError
from moejax.routing.capacity import TokenChoiceCapacity, slots_per_expert


@pytest.mark.parametrize(
    "factor, fields, capacity",
    [
        (1.05, {"num_tokens": 49, "num_experts": 32, "num_selected_experts": 2}, 4),  # 1.05 * 49 * 2 / 32 = 3.2 -> 4
        (1.0, {"num_tokens": 196, "num_experts": 128, "multiple": 4}, 4),  # 196 / 128 = 1.53 -> 2 -> 4
        (1.1, {"num_tokens": 10, "num_experts": 1, "num_selected_experts": 1}, 10),  # 11, but a group has 10 tokens
        (1.1, {"num_tokens": 30, "num_experts": 3}, 11),  # 1.1 * 10 is 11 and a rounding error, which costs no slot
        (1.0, {"num_tokens": 5, "num_experts": 2, "rounding": "round"}, 3),  # 2.5 -> 3 (halves up)
        (1.0, {"num_tokens": 9, "num_experts": 4, "rounding": "round"}, 2),  # 2.25 -> 2
        (0.1, {"num_tokens": 4, "num_experts": 4}, 1),  # 0.1 -> 1
        (2.0, {"num_tokens": 6, "num_experts": 4, "multiple": 4}, 4),  # 3 -> 4
        (2.0, {"num_tokens": 6, "num_experts": 2, "multiple": 4}, 6),  # 6 -> 8 -> clipped at 6
    ],
)
def test_slots_by_hand(factor, fields, capacity):
    assert slots_per_expert(factor, **fields) == capacity


def test_capacity_that_rounds_to_zero_names_a_way_out():
    # 0.2 * 4 / 4 = 0.2 rounds to zero; half a slot needs a factor of 4 / (2 * 4) = 0.5.
    with pytest.raises(SpecError, match=r"capacity_factor=0.2 .* rounds to zero .*capacity_factor >= 0.5"):
        slots_per_expert(0.2, num_tokens=4, num_experts=4, rounding="round")
    assert slots_per_expert(0.5, num_tokens=4, num_experts=4, rounding="round") == 1


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factor_must_be_positive(factor):
    for field in ("capacity_factor", "eval_capacity_factor"):
        with pytest.raises(SpecError, match=f"^{field}="):
            TokenChoiceCapacity(**{field: factor}).check_capacity()


def test_train_and_eval_factors():
    same = TokenChoiceCapacity(capacity_factor=1.5)
    assert (same.factor(training=True), same.factor(training=False)) == (1.5, 1.5)
    dropless_eval = TokenChoiceCapacity(capacity_factor=1.5, eval_capacity_factor=None)
    assert (dropless_eval.factor(training=True), dropless_eval.factor(training=False)) == (1.5, None)
    only_eval = TokenChoiceCapacity(eval_capacity_factor=2.0)
    assert (only_eval.factor(training=True), only_eval.factor(training=False)) == (None, 2.0)
    assert TokenChoiceCapacity().always_dropless
    assert not dropless_eval.always_dropless
    assert not only_eval.always_dropless
