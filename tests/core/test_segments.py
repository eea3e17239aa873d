"""Segments: runs of equal specs, and a scan that equals the loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.segments import apply_segment, segments, segments_named, split_segments, stack, unstack
from moejax.linear.dense import Dense


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


def test_names_say_the_segments() -> None:
    specs = ["a", "a", "b", "b"]
    assert segments_named(["02-03", "00-01"], specs) == segments(specs)
    split = segments_named(["03", "00", "01", "02"], specs)
    assert [(s.name, s.first, s.length, s.spec) for s in split] == [
        ("00", 0, 1, "a"),
        ("01", 1, 1, "a"),
        ("02", 2, 1, "b"),
        ("03", 3, 1, "b"),
    ]
    mixed = segments_named(["00", "01", "02-03"], specs)
    assert [(s.name, s.spec) for s in mixed] == [("00", "a"), ("01", "a"), ("02-03", "b")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["00", "02-03"], "cover the layers 00 to 03"),
        (["00-01", "01", "02-03"], "cover the layers"),
        (["00-01", "02"], "cover the layers"),
        (["00-01", "02-04"], "cover the layers"),
        (["00", "01-02", "03"], "'01-02' stacks layers that are not alike.*00-01, 02-03"),
        (["first"], "'first' names no segment"),
    ],
)
def test_names_that_fit_no_layers_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        segments_named(names, ["a", "a", "b", "b"])


def test_splitting_gives_every_layer_its_own_tree() -> None:
    kernel = jnp.arange(6.0).reshape(3, 2)
    tree = {
        "blocks": {"00-02": {"up": Dense(kernel[:, None]), "norm": {"scale": kernel}}, "03": {"w": kernel}},
        "head": kernel,
    }
    split = split_segments(tree)
    assert sorted(split["blocks"]) == ["00", "01", "02", "03"]
    np.testing.assert_array_equal(split["blocks"]["01"]["up"].kernel, [[2.0, 3.0]])
    np.testing.assert_array_equal(split["blocks"]["02"]["norm"]["scale"], [4.0, 5.0])
    assert split["blocks"]["03"]["w"] is kernel and split["head"] is kernel
    assert sorted(split_segments(split)["blocks"]) == sorted(split["blocks"])
