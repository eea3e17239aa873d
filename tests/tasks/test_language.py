"""The language task against numbers worked by hand, over a model that returns fixed logits."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.outputs import ModelOutput
from moejax.tasks.classification import Classification
from moejax.tasks.language import Language

# Softmax of every token: (1/2, 1/4, 1/4).
ROW = (math.log(2), 0.0, 0.0)
TARGET = np.array([[0, 1, 2], [0, -1, -1]], np.int32)
# Counted tokens: nll log 2, log 4, log 4, log 2 = 6 log 2 in all, over 4 tokens; two of them are the likeliest.


@dataclasses.dataclass(frozen=True)
class FixedLogits:
    """The logits ROW + params at every token, one router loss of 0.5, and a state that moves."""

    vocab_size: int = 3
    max_length: int = 3

    def init(self, key):
        del key
        return {"shift": jnp.zeros((3,))}, {"calls": jnp.zeros((), jnp.int32)}

    def apply(self, params, state, tokens, *, key=None, return_plans=False):
        logits = jnp.broadcast_to(jnp.asarray(ROW, jnp.float32) + params["shift"], (*tokens.shape, 3))
        return ModelOutput(
            logits=logits,
            features=logits,
            state={"calls": state["calls"] + 1},
            losses={"balance": jnp.float32(0.5)},
            metrics={"block_01/load": jnp.array([0.25, 0.75], jnp.float32)},
            plans={},
        )


def batch(**extra):
    return {"tokens": jnp.zeros((2, 3), jnp.int32), "target": jnp.asarray(TARGET), **extra}


def start(**fields):
    task = Language(model=FixedLogits(), **fields)
    return task, *task.init(jax.random.key(0))


def test_the_loss_is_a_mean_over_counted_tokens():
    task, params, state = start(aux_loss_weight=0.1)
    value, (after, metrics) = task.loss(params, state, batch(), jax.random.key(1))
    assert float(metrics["loss"]) == pytest.approx(1.5 * math.log(2))
    assert float(value) == float(metrics["total_loss"]) == pytest.approx(1.5 * math.log(2) + 0.05)
    assert float(metrics["accuracy"]) == 0.5 and float(metrics["aux/balance"]) == 0.5
    assert int(after["calls"]) == 1
    assert float(task.deterministic_loss(params, state, batch(), jax.random.key(1))) == float(value)


def test_the_gradient_knows_nothing_of_what_is_not_counted():
    task, params, state = start()
    gradient = jax.grad(lambda p: task.loss(p, state, batch(), None)[0])(params)["shift"]
    # Mean over the four counted tokens of softmax - one-hot: (1/2, 1/4, 1/4) - (2, 1, 1) / 4 = 0.
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)
    empty = batch(target=jnp.full((2, 3), -1, jnp.int32))
    value, _ = task.loss(params, state, empty, None)
    assert float(value) == 0.5, "the router's loss alone, and no division by zero"


def test_evaluation_sums_over_sequences_and_leaves_padding_out():
    task, params, state = start()
    mask = jnp.array([True, False])
    found = task.evaluate(params, state, batch(mask=mask, bytes=jnp.array([2, 1], jnp.int32)))
    assert {name: v.tolist() for name, v in found.items() if name != "nll"} == {
        "correct": [1, 0], "tokens": [3, 0], "bytes": [2, 0], "mask": [True, False],
    }  # fmt: skip
    np.testing.assert_allclose(found["nll"], [5 * math.log(2), 0.0], rtol=1e-6)
    summary = task.summarise({name: np.asarray(v) for name, v in found.items()}, None)
    # 5 bits over three tokens and two bytes.
    assert summary["loss"] == pytest.approx(5 / 3 * math.log(2)) and summary["bits_per_byte"] == pytest.approx(2.5)
    assert summary["perplexity"] == pytest.approx(2 ** (5 / 3)) and summary["accuracy"] == pytest.approx(1 / 3)


def test_without_byte_counts_a_token_is_a_byte():
    task, params, state = start()
    summary = task.summarise({n: np.asarray(v) for n, v in task.evaluate(params, state, batch()).items()}, None)
    assert summary["bits_per_byte"] == pytest.approx(6 / 4) and summary["accuracy"] == 0.5
    with pytest.raises(SpecError, match="no examples"):
        task.summarise({"mask": np.zeros(0, bool)}, None)


def test_distillation_is_the_divergence_by_hand():
    task, params, state = start()
    other = {"shift": jnp.asarray([-math.log(2), 0.0, 0.0], jnp.float32)}  # even: (1/3, 1/3, 1/3)
    # KL((1/2, 1/4, 1/4) || even) = log 3 - 3/2 log 2
    found = task.distillation(other, params, state, batch(), jax.random.key(0))
    assert float(found) == pytest.approx(math.log(3) - 1.5 * math.log(2), rel=1e-5)
    assert float(task.distillation(params, params, state, batch(), jax.random.key(0))) == 0.0


def test_shapes_of_a_batch():
    shapes = start()[0].batch_shapes(4)
    assert {n: (s.shape, s.dtype.name) for n, s in shapes.items()} == dict.fromkeys(
        ("tokens", "target"), ((4, 3), "int32")
    )
    assert start()[0].batch_shapes(4, 2)["tokens"].shape == (4, 2)


def info(**fields):
    return types.SimpleNamespace(**{"name": "text", "vocab_size": 3, "sequence_length": 3} | fields)


def test_data_that_does_not_fit():
    task = start()[0]
    task.check_data(info())
    with pytest.raises(SpecError, match=r"vocab_size=3, but text has 257 .*--config.model.vocab_size=257"):
        task.check_data(info(vocab_size=257))
    with pytest.raises(SpecError, match="sequence_length=4 is more than config.model.max_length=3"):
        task.check_data(info(sequence_length=4))
    with pytest.raises(SpecError, match="pictures is no text"):
        task.check_data(types.SimpleNamespace(name="pictures", num_classes=3, image_shape=(8, 8, 3)))
    with pytest.raises(SpecError, match="text is text, and this task takes pictures"):
        Classification(model=None).check_data(info())
    with pytest.raises(SpecError, match="must not be negative"):
        Language(model=None, aux_loss_weight=-1.0)
