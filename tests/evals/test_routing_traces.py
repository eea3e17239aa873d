"""Recorded routing: what a model chose, in a file and back."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.plans import ExpertChoice, TokenChoice
from moejax.evals.routing_traces import RoutingTrace, load, record, save

CHOICES = np.array([[[0, 2], [2, -1], [2, 1], [0, 1]], [[1, 0], [1, 2], [1, 0], [1, -1]]], np.int32)
GATES = np.linspace(0.1, 0.9, 16, dtype=np.float32).reshape(2, 4, 2)


def trace(**fields):
    given = {
        "choices": CHOICES, "gates": GATES, "num_experts": 3, "tokens_per_sequence": 2, "blocks": ("block_01", "block_03")
    }  # fmt: skip
    return RoutingTrace(**given | fields)


def test_loads_by_hand():
    # Layer 1 makes 7 choices: 0 twice, 1 twice, 2 thrice. Layer 2 makes 7: 0 twice, 1 four times, 2 once.
    np.testing.assert_allclose(trace().loads(), np.array([[2, 2, 3], [2, 4, 1]]) / 7)


def test_thinned_keeps_whole_sequences():
    long = trace(
        choices=np.tile(np.arange(10, dtype=np.int32)[None, :, None] % 3, (2, 1, 2)),
        gates=np.tile(np.arange(10, dtype=np.float32)[None, :, None], (2, 1, 2)),
    )
    np.testing.assert_array_equal(long.thinned(3).gates[1, :, 0], [0, 1, 4, 5, 8, 9])  # sequences 0, 2 and 4 of 5
    np.testing.assert_array_equal(long.thinned(9).choices, long.choices)
    with pytest.raises(SpecError, match="keep at least 1 of 5"):
        long.thinned(0)


def test_file(tmp_path):
    save(tmp_path / "trace.npz", trace(source="a run"))
    found = load(tmp_path / "trace.npz")
    np.testing.assert_array_equal(found.choices, CHOICES)
    np.testing.assert_array_equal(found.gates, GATES)
    assert (found.choices.dtype, found.gates.dtype) == (np.int32, np.float32)
    assert (found.num_experts, found.blocks, found.source) == (3, ("block_01", "block_03"), "a run")
    with np.load(tmp_path / "trace.npz", allow_pickle=False) as raw:
        assert raw["choices"].dtype == np.int8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_experts": 2}, r"choices in \[-1, 2\] must lie in \[-1, 1\]"),
        ({"choices": CHOICES[:, :0], "gates": GATES[:, :0]}, "must both be"),
        ({"blocks": ("block_01",)}, "1 block names for 2 layers"),
        ({"tokens_per_sequence": 3}, "no whole sequences of 3"),
        ({"gates": GATES * np.float32(np.nan)}, "not finite"),
    ],
)
def test_what_contradicts_itself(fields, message):
    with pytest.raises(SpecError, match=message):
        trace(**fields)


def test_files_that_are_none(tmp_path):
    with pytest.raises(SpecError, match="no such file of recorded routing"):
        load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", choices=CHOICES)
    with pytest.raises(SpecError, match="lacks the arrays"):
        load(tmp_path / "other.npz")
    save(tmp_path / "trace.npz", trace())
    with np.load(tmp_path / "trace.npz", allow_pickle=False) as raw:
        np.savez(tmp_path / "text.npz", **{**raw, "gates": np.asarray(["a"])})
    with pytest.raises(SpecError, match="gates are of type"):
        load(tmp_path / "text.npz")


class Model:
    """Two pictures of two tokens to one group; token n of picture p chooses expert p, then n + 1."""

    def __init__(self, make):
        self.make = make

    def apply(self, params, state, images, return_plans):
        assert return_plans
        return types.SimpleNamespace(plans={"block_01": self.make(images)})


def by_picture(images):
    picture = images[:, 0, 0, 0].astype(jnp.int32)
    first = jnp.broadcast_to(picture[:, None], (len(images), 2))
    second = jnp.broadcast_to(jnp.arange(1, 3), (len(images), 2))
    expert = jnp.stack([first, second], -1).reshape(-1, 4, 2)
    return TokenChoice(expert, expert / 10, num_experts=5)


def test_record_leaves_padding_out():
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    batch = {"image": images, "label": np.zeros(4, np.int32), "mask": np.array([True, True, True, False])}
    found = record(Model(by_picture), {}, {}, [batch, batch], num_tokens=2, source="x")
    once = [[0, 1], [0, 2], [1, 1], [1, 2], [2, 1], [2, 2]]
    np.testing.assert_array_equal(found.choices, [once * 2])
    np.testing.assert_allclose(found.gates, found.choices / 10, rtol=1e-6)
    assert (found.num_experts, found.tokens_per_sequence, found.blocks) == (5, 2, ("block_01",))


def test_record_of_what_tokens_do_not_choose():
    batch = {"image": np.zeros((2, 1, 1, 1), np.float32), "label": np.zeros(2, np.int32)}
    chosen = Model(lambda images: ExpertChoice(jnp.zeros((1, 3, 1), jnp.int32), jnp.ones((1, 3, 1))))
    with pytest.raises(SpecError, match="ExpertChoice"):
        record(chosen, {}, {}, [batch], num_tokens=2)
    with pytest.raises(SpecError, match="no batch"):
        record(chosen, {}, {}, [], num_tokens=2)
