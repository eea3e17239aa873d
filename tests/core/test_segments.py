"""Segments: runs of equal specs, and a scan that equals the loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.segments import apply_segment, segments, stack, unstack


def test_runs_of_equal_specs_are_named_by_their_layers() -> None:
    runs = segments(["a", "a", "b", "a"])
    assert [(s.name, s.first, s.length, s.spec) for s in runs] == [
        ("00-01", 0, 2, "a"),
        ("02", 2, 1, "b"),
        ("03", 3, 1, "a"),
    ]
    assert list(runs[0].layers) == [0, 1]


def test_stack_and_unstack_are_inverse() -> None:
    trees = [{"w": jnp.full((2,), float(i))} for i in range(3)]
    for tree, again in zip(trees, unstack(stack(trees), 3), strict=True):
        np.testing.assert_array_equal(tree["w"], again["w"])


@pytest.mark.parametrize("unroll", [False, True])
def test_a_segment_runs_its_layers_in_order(unroll: bool) -> None:
    (segment,) = segments(["layer"] * 3)
    weights = {"w": jnp.asarray([2.0, 3.0, 5.0])}
    carry, outs = apply_segment(
        lambda p, c, i: (c * p["w"] + i, c),
        segment,
        weights,
        jnp.asarray(1.0),
        [jnp.asarray(float(i)) for i in range(3)],
        unroll=unroll,
    )
    # ((1*2 + 0)*3 + 1)*5 + 2 = 37; what each layer saw: 1, 2, 7
    assert carry == 37.0
    assert [float(out) for out in outs] == [1.0, 2.0, 7.0]
