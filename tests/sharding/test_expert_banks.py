"""Arrays of every expert bank: those with an expert axis are cut over the experts, all others are not."""

import jax
import pytest

from moejax.core.spec import examples
from moejax.core.tree import flatten
from moejax.sharding.rules import Rules, param_specs

BANKS = {f"{name}-{i}": spec for i, (name, spec) in enumerate(examples("experts"))}


def shapes(bank, num_experts):
    return jax.eval_shape(lambda: bank.init(jax.random.key(0), num_experts, 16))


@pytest.mark.parametrize("name", BANKS)
def test_expert_axes_are_cut(name):
    bank = BANKS[name]
    several, more = ({"moe": {"experts": shapes(bank, count)}} for count in (6, 12))
    specs = flatten(param_specs(several, Rules()))
    for leaf, array in flatten(several).items():
        has_axis = array.shape != flatten(more)[leaf].shape
        assert ("expert" in specs[leaf]) == has_axis, leaf
        if has_axis:
            assert specs[leaf][0] == "expert"
            assert array.shape[0] == 6
