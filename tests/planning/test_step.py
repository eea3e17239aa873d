"""What is read off a compiled step, and what a step holds."""

import types

import pytest

from moejax.planning.step import compiler_seconds, rows_per_chip

PLAIN = "ENTRY %main (x: f32[2]) -> f32[2] {\n  %d = f32[2] dot(%a, %b)\n}"


def test_the_compilers_estimate_of_a_plain_program():
    assert compiler_seconds({"optimal_seconds": 0.25}, PLAIN) == 0.25
    assert compiler_seconds([{"optimal_seconds": 0.25}], PLAIN) == 0.25


@pytest.mark.parametrize(
    ("costs", "line"),
    [
        (None, "dot(%a, %b)"),
        ({"flops": 3.0}, "dot(%a, %b)"),
        ({"optimal_seconds": -5.9}, "dot(%a, %b)"),
        ({"optimal_seconds": 0.25}, "all-gather-start(%a)"),
        ({"optimal_seconds": 0.25}, "async-start(%a)"),
        ({"optimal_seconds": 0.25}, "while(%a), body=%b"),
    ],
)
def test_an_estimate_that_means_nothing(costs, line):
    assert compiler_seconds(costs, PLAIN.replace("dot(%a, %b)", line)) is None


def test_rows_of_a_chip():
    router = types.SimpleNamespace(num_selected_experts=2)
    model = types.SimpleNamespace(moe=types.SimpleNamespace(router=router), num_tokens=10)
    assert rows_per_chip(model, 16, 4) == 16 * 10 * 2 // 4
    assert rows_per_chip(types.SimpleNamespace(moe=None, num_tokens=10), 16, 4) is None
