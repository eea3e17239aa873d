"""The classification task against numbers worked by hand, over a model that returns fixed logits."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.outputs import ModelOutput
from moejax.core.spec import build_method
from moejax.tasks.classification import Classification

# Logits whose softmax is (1/2, 1/4, 1/4) and (1/5, 2/5, 2/5).
LOGITS = ((math.log(2), 0.0, 0.0), (0.0, math.log(2), math.log(2)))


@dataclasses.dataclass(frozen=True)
class FixedLogits:
    """Returns LOGITS + params, one auxiliary loss per entry of `losses`, and moves its state."""

    losses: tuple[float, ...] = ()

    def init(self, key):
        del key
        return {"shift": jnp.zeros((3,))}, {"calls": jnp.zeros((), jnp.int32)}

    def apply(self, params, state, images, *, key=None, return_plans=False):
        logits = jnp.asarray(LOGITS, jnp.float32) + jnp.broadcast_to(params["shift"], (2, 3))
        return ModelOutput(
            logits=logits,
            features=logits,
            state={"calls": state["calls"] + 1},
            losses={f"loss_{i}": jnp.float32(value) for i, value in enumerate(self.losses)},
            metrics={"block_01/load": jnp.array([0.25, 0.75], jnp.float32)},
            plans={},
        )


def batch(**extra):
    return {"image": jnp.zeros((2, 1, 1, 3)), "label": jnp.array([0, 1], jnp.int32), **extra}


def loss_of(task, **extra):
    params, state = task.init(jax.random.key(0))
    return task.loss(params, state, batch(**extra), jax.random.key(1))


def test_softmax():
    # -(log 1/2 + log 2/5) / 2 = (0.6931 + 0.9163) / 2 = 0.8047
    value, (state, metrics) = loss_of(Classification(model=FixedLogits()))
    assert float(value) == pytest.approx(0.80472, abs=1e-5)
    assert float(metrics["loss"]) == pytest.approx(0.80472, abs=1e-5)
    assert float(metrics["accuracy"]) == 1.0  # the tie of the second picture goes to the lower class
    assert int(state["calls"]) == 1
    np.testing.assert_allclose(metrics["block_01/load"], [0.25, 0.75])


def test_label_smoothing():
    # Targets 0.3/3 = 0.1 off the label, 0.8 on it. First: -(0.8 log 1/2 + 0.2 log 1/4) = 0.55452 + 0.27726 = 0.83178.
    # Second, label 1: -(0.1 log 1/5 + 0.9 log 2/5) = 0.16094 + 0.82466 = 0.98560. Mean 0.90869.
    value, _ = loss_of(Classification(model=FixedLogits(), label_smoothing=0.3))
    assert float(value) == pytest.approx(0.90869, abs=1e-5)


def test_soft_targets_replace_labels():
    # Both pictures half class 0, half class 2: first (0.69315 + 1.38629)/2 = 1.03972; second (1.60944 + 0.91629)/2 =
    # 1.26287. Mean 1.15129.
    target = jnp.array([[0.5, 0.0, 0.5], [0.5, 0.0, 0.5]])
    value, (_, metrics) = loss_of(Classification(model=FixedLogits()), target=target)
    assert float(value) == pytest.approx(1.15129, abs=1e-5)
    assert float(metrics["accuracy"]) == 1.0  # still against the label


def test_sigmoid_sums_over_classes():
    # sigmoid(log 2) = 2/3. First: -log 2/3 - 2 log 1/2 = 0.40547 + 1.38629 = 1.79176.
    # Second, label 1: -log 1/2 - log 2/3 - log 1/3 = 0.69315 + 0.40547 + 1.09861 = 2.19722. Mean 1.99449.
    value, _ = loss_of(Classification(model=FixedLogits(), cross_entropy="sigmoid"))
    assert float(value) == pytest.approx(1.99449, abs=1e-5)


def test_auxiliary_losses_are_summed_and_weighted():
    # 0.80472 + 0.5 * (0.2 + 0.3) = 1.05472
    value, (_, metrics) = loss_of(Classification(model=FixedLogits(losses=(0.2, 0.3)), aux_loss_weight=0.5))
    assert float(value) == pytest.approx(1.05472, abs=1e-5)
    assert float(metrics["loss"]) == pytest.approx(0.80472, abs=1e-5)
    assert float(metrics["total_loss"]) == pytest.approx(1.05472, abs=1e-5)
    assert float(metrics["aux/loss_1"]) == pytest.approx(0.3)


def test_evaluate_masks_padding():
    task = Classification(model=FixedLogits(), label_smoothing=0.3)
    params, state = task.init(jax.random.key(0))
    examples = task.evaluate(params, state, batch(mask=jnp.array([True, False])))
    np.testing.assert_allclose(examples["correct"], [1, 0])
    np.testing.assert_allclose(examples["nll"], [math.log(2), 0], atol=1e-6)
    np.testing.assert_allclose(examples["probability"], [0.5, 0], atol=1e-6)
    np.testing.assert_array_equal(examples["label"], [0, -1])


def test_summary_per_domain():
    info = types.SimpleNamespace(domain_names=("a", "b", "empty"), class_domains=(0, 0, 1))
    examples = {
        "correct": np.array([1, 0, 1, 0], np.float32),
        "nll": np.array([0.5, 1.5, 1.0, 0.0], np.float32),
        "label": np.array([0, 1, 2, -1]),
        "mask": np.array([True, True, True, False]),
    }
    summary = Classification(model=FixedLogits()).summarise(examples, info)
    # Three real pictures: 2 of 3 right, mean nll 1; domain a: 1 of 2; domain b: 1 of 1.
    assert summary == pytest.approx({"accuracy": 2 / 3, "loss": 1.0, "accuracy/a": 0.5, "accuracy/b": 1.0})
    with pytest.raises(SpecError, match="no examples"):
        Classification(model=FixedLogits()).summarise(examples | {"mask": np.zeros(4, bool)}, info)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cross_entropy": "sofmax"}, "Did you mean 'softmax'"),
        ({"label_smoothing": 1.0}, "must lie in"),
        ({"aux_loss_weight": -1.0}, "not be negative"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(SpecError, match=message):
        Classification(model=None, **fields)


def test_the_name_builds_the_task():
    assert build_method("tasks", {"name": "classification", "model": None}) == Classification(model=None)
    with pytest.raises(SpecError, match="Did you mean 'classification'"):
        build_method("tasks", {"name": "clasification", "model": None})
