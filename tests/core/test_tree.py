"""Leaf names, rules over them, and differences between trees."""

import jax.numpy as jnp
import pytest

from moejax.core.errors import SpecError
from moejax.core.tree import differences, flatten, leaf_names, map_with_names, match_rules
from moejax.linear.dense import Dense

TREE = {"blocks": {"00": {"up": Dense(jnp.zeros((2, 3))), "bias": jnp.zeros(3)}}, "head": jnp.zeros((3, 1))}


def test_names_follow_dicts_and_leaf_types() -> None:
    assert leaf_names(TREE) == ["blocks/00/bias", "blocks/00/up/kernel", "head"]
    assert flatten(TREE)["blocks/00/up/kernel"].shape == (2, 3)
    assert map_with_names(lambda name, leaf: (name, leaf.ndim), TREE)["head"] == ("head", 2)


def test_the_first_rule_that_matches_wins() -> None:
    rules = match_rules([(r"bias$", 0.0), (r"^blocks/", 1.0)], TREE, default=2.0)
    assert flatten(rules) == {"blocks/00/bias": 0.0, "blocks/00/up/kernel": 1.0, "head": 2.0}


def test_a_rule_hidden_by_an_earlier_one_is_not_an_error_but_a_rule_that_fits_nothing_is() -> None:
    match_rules([(r"", 0), (r"head", 1)], TREE)
    with pytest.raises(SpecError, match=r"'haed' is found in no leaf name. Did you mean 'head'"):
        match_rules([(r"haed", 0)], TREE)
    with pytest.raises(SpecError, match="is not a regular expression"):
        match_rules([(r"(", 0)], TREE)


def test_differences_say_which_leaf_and_how() -> None:
    other = {"blocks": {"00": {"up": Dense(jnp.zeros((2, 4)))}}, "head": jnp.zeros((3, 1)), "tail": jnp.zeros(1)}
    assert differences(TREE, other) == [
        "missing: blocks/00/bias float32[3]",
        "unexpected: tail float32[1]",
        "differs: blocks/00/up/kernel expected float32[2,3], found float32[2,4]",
    ]
    assert differences(TREE, TREE) == []
