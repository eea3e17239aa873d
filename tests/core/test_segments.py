"""Segments: runs of equal specs, and a scan that equals the loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.segments import (
    apply_segment,
    apply_turns,
    segments,
    segments_named,
    split_segments,
    stack,
    turns,
    unstack,
)
from moejax.linear.dense import Dense


def test_runs_of_equal_specs_are_named_by_their_layers() -> None:
    runs = segments(["a", "a", "b", "a"])
    assert [(s.name, s.first, s.length, s.spec) for s in runs] == [
        ("00-01", 0, 2, "a"),
        ("02", 2, 1, "b"),
        ("03", 3, 1, "a"),
    ]
    assert list(runs[0].layers) == [0, 1]


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        ("abababab", ["00-06by2", "01-07by2"]),
        ("aabaabaac", ["00-03by3", "01-04by3", "02-05by3", "06-07", "08"]),
        ("aabcde", ["00-01", "02", "03", "04", "05"]),
        ("aaaabbbb", ["00-03", "04-07"]),
        ("aaabab", ["00-02", "03", "04", "05"]),
        ("a", ["00"]),
    ],
)
def test_patterns_that_repeat(specs: str, names: list[str]) -> None:
    found = segments(specs)
    assert [s.name for s in found] == names
    assert segments_named(reversed(names), specs) == found
    assert sorted(i for s in found for i in s.layers) == list(range(len(specs)))
    assert all(s.spec == specs[i] for s in found for i in s.layers)


def test_turns_go_together() -> None:
    found = turns(segments("aabaabaac"))
    assert [[s.name for s in group] for group in found] == [["00-03by3", "01-04by3", "02-05by3"], ["06-07"], ["08"]]


@pytest.mark.parametrize("unroll", [False, True])
def test_segments_that_take_turns_run_in_the_order_of_layers(unroll: bool) -> None:
    plus, times = (lambda p, c, i: (c + p + i, c)), (lambda p, c, i: (c * p + i, c))
    weights = [jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, 5.0])]
    inputs = [[jnp.asarray(0.0), jnp.asarray(10.0)], [jnp.asarray(0.5), jnp.asarray(0.0)]]
    carry, outs = apply_turns([plus, times], 2, weights, jnp.asarray(1.0), inputs, unroll=unroll)
    # 1 + 1 = 2; 2*3 + 0.5 = 6.5; 6.5 + 2 + 10 = 18.5; 18.5*5 = 92.5
    assert carry == 92.5
    assert [[float(out) for out in own] for own in outs] == [[1.0, 6.5], [2.0, 18.5]]


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
        (["00-02by2", "01-03by2"], "'00-02by2' stacks layers that are not alike"),
        (["00-01by0", "02-03"], "names no segment"),
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
    assert sorted(split_segments({"00-02by2": kernel[:2], "01-03by2": kernel[:2]})) == ["00", "01", "02", "03"]
    split = split_segments(tree)
    assert sorted(split["blocks"]) == ["00", "01", "02", "03"]
    np.testing.assert_array_equal(split["blocks"]["01"]["up"].kernel, [[2.0, 3.0]])
    np.testing.assert_array_equal(split["blocks"]["02"]["norm"]["scale"], [4.0, 5.0])
    assert split["blocks"]["03"]["w"] is kernel and split["head"] is kernel
    assert sorted(split_segments(split)["blocks"]) == sorted(split["blocks"])


def test_turns_that_do_not_stand_together_are_refused() -> None:
    with pytest.raises(SpecError, match="cover the layers 00 to 03"):
        segments_named(["00-02by2", "01", "03"], ["a", "b", "a", "b"])
