"""Trees as plain data and back, for every leaf type; what is wrong is named by its place."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from moejax.linear.sparse_spectral import SparseSpectral
from moejax.linear.structure import abstract, describe
from tests.linear.leaf_examples import NAMES, drawn


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    params = {"blocks": {"00": {"up": drawn(name), "up_bias": jnp.zeros((4, 5), jnp.bfloat16), "none": None}}}
    written = json.loads(json.dumps(describe(params)))
    found = abstract(written)
    wanted = jax.eval_shape(lambda: params)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert [(a.shape, a.dtype) for a in jax.tree.leaves(found)] == [(a.shape, a.dtype) for a in jax.tree.leaves(wanted)]
    assert describe(found) == describe(params)


def test_by_hand():
    leaf = LowRank(jnp.zeros((2, 3, 4)), jnp.zeros((2, 4, 5)), (4, 1))
    assert describe({"up": leaf, "scales": (jnp.zeros(()), [None])}) == {
        "up": {
            "$leaf": "low_rank",
            "u": {"$array": [[2, 3, 4], "float32"]},
            "v": {"$array": [[2, 4, 5], "float32"]},
            "ranks": [4, 1],
        },
        "scales": {"$tuple": [{"$array": [[], "float32"]}, {"$list": [None]}]},
    }


KERNEL = {"$array": [[2, 3], "float32"]}
WRONG = {
    "is no leaf type of moejax/linear. Did you mean 'dense'": {"$leaf": "dens", "kernel": KERNEL},
    "params/up: dense lacks 'kernel'": {"$leaf": "dense"},
    "dense has no field 'kernal'. Did you mean 'kernel'": {"$leaf": "dense", "kernal": KERNEL},
    "params/up/kernel: .* is no .shape, dtype.": {"$leaf": "dense", "kernel": {"$array": [[2, 3], "float33"]}},
    "params/up: 3 describes nothing": 3,
    r"unknown mark '\$arry'. Did you mean": {"$arry": [[], "float32"]},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_descriptions(message):
    with pytest.raises(SpecError, match=message):
        abstract({"up": WRONG[message]})


def test_what_cannot_be_described():
    with pytest.raises(SpecError, match="params/a/1: a str is neither"):
        describe({"a": [jnp.zeros(()), "text"]})
    with pytest.raises(SpecError, match="key 3 must be a string"):
        describe({"a": {3: jnp.zeros(())}})
    sparse = SparseSpectral(jnp.zeros((2, 2)), jnp.zeros(1), jnp.zeros((2, 3)), jnp.zeros((2, 3)), (np.int64(2),))
    assert type(describe(sparse)["pattern"][0]) is int
    with pytest.raises(SpecError, match="params/a/pattern: the static value .* is no number"):
        describe({"a": sparse.replace(pattern=({2},))})

    class Other(Dense):
        pass

    with pytest.raises(SpecError, match="params/a: Other is no leaf type"):
        describe({"a": Other(jnp.zeros((2, 3)))})
