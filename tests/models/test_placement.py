"""Which layers the rules name."""

import pytest

from moejax.core.errors import SpecError
from moejax.models.placement import place


@pytest.mark.parametrize(
    ("rule", "depth", "layers"),
    [
        ("none", 4, ()),
        ("all", 3, (0, 1, 2)),  # DiT-MoE
        ("last2", 8, (5, 7)),  # V-MoE-S Last-2
        ("every2", 12, (1, 3, 5, 7, 9, 11)),  # V-MoE-B Every-2
        ("last5", 32, (23, 25, 27, 29, 31)),  # V-MoE-H Last-5
        ("every3", 7, (2, 5)),
        ("every1", 3, (0, 1, 2)),
        ("final6", 12, (6, 7, 8, 9, 10, 11)),  # Soft MoE S
        ((3, 0, -2), 4, (0, 2, 3)),
    ],
)
def test_rules(rule, depth: int, layers: tuple[int, ...]) -> None:
    assert place(rule, depth) == layers


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("evry2", "is no rule"),
        ("last0", "is no rule"),
        ("last3", "N may be at most 2"),  # of four layers two are odd
        ("every5", "N may be at most 4"),
        ((1, 4), "layer 4; depth=4 has layers 0 to 3"),
        ((3, -1), "names a layer twice"),
    ],
)
def test_bad_rules(rule, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        place(rule, 4)
