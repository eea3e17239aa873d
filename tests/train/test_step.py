"""One step: accumulation, the moving average, keys, and the signs of a broken step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.experts.mlp import MlpExperts
from moejax.layers.moe import MoE
from moejax.routing.top_k import TopKRouter
from moejax.train.optimizers import Optimizer
from moejax.train.state import create
from moejax.train.step import build_step, first_failure, gradients, moving_average

SGD = Optimizer(name="sgd", learning_rate=0.1, schedule="constant", momentum=0.0)


@dataclasses.dataclass(frozen=True)
class MoETask:
    """Mean square of an MoE layer's output plus its tokens; every picture is a group of its own."""

    moe: MoE
    remat: bool = False

    def init(self, key):
        return self.moe.init(key, 8)

    def loss(self, params, state, batch, key):
        def apply(params, x):
            out = self.moe.apply(params, state, x, key=key)
            return jnp.mean(jnp.square(out.tokens + x)), (out.state, out.metrics | {"expert": out.plan.expert})

        loss, (state, metrics) = (jax.checkpoint(apply) if self.remat else apply)(params, batch["image"])
        chosen = metrics.pop("expert")
        return loss, (state, metrics | {"loss": loss, "chosen": jax.nn.one_hot(chosen, 4).sum((0, 1, 2))})


def moe_task(noise_std, remat=False):
    router = TopKRouter(num_experts=4, num_selected_experts=2, noise_std=noise_std, capacity_factor=1.0)
    return MoETask(MoE(router=router, experts=MlpExperts(expert_dim=4), dispatch="einsum"), remat)


def moe_gradients(task, accumulate_steps):
    params, state = task.init(jax.random.key(0))
    batch = {"image": jax.random.normal(jax.random.key(1), (4, 6, 8))}
    compute = jax.jit(lambda p, s, b: gradients(task, p, s, b, jax.random.key(2), accumulate_steps))
    return compute(params, state, batch)


def test_accumulation_equals_the_big_batch():
    big, _, whole = moe_gradients(moe_task(0.0), 1)
    small, _, parts = moe_gradients(moe_task(0.0), 2)
    for one, two in zip(jax.tree.leaves(big), jax.tree.leaves(small), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_allclose(whole["loss"], parts["loss"], rtol=1e-6)
    # The same choices: 4 pictures of 6 tokens with 2 experts each, counted over two micro batches' mean.
    np.testing.assert_array_equal(whole["chosen"], 2 * parts["chosen"])
    assert float(whole["chosen"].sum()) == 48.0
    np.testing.assert_allclose(whole["dropped"], parts["dropped"], atol=1e-6)


@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_routing_with_noise_is_identical_under_remat(accumulate_steps):
    plain, _, metrics = moe_gradients(moe_task(4.0), accumulate_steps)
    remat, _, again = moe_gradients(moe_task(4.0, remat=True), accumulate_steps)
    np.testing.assert_array_equal(metrics["chosen"], again["chosen"])
    for one, two in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_micro_batches_draw_from_fold_in_of_step_and_index(linear_task):
    task = linear_task(noise=1.0)
    params, state = task.init(jax.random.key(0))
    batch = {"image": jnp.ones((4, 4)), "label": jnp.zeros((4,), jnp.int32)}
    key = jax.random.key(7)
    _, after, metrics = gradients(task, params, state, batch, key, 2)
    halves = {name: array[:2] for name, array in batch.items()}
    by_hand = [task.loss(params, state, halves, jax.random.fold_in(key, i))[0] for i in (0, 1)]
    assert float(metrics["loss"]) == pytest.approx((float(by_hand[0]) + float(by_hand[1])) / 2, rel=1e-6)
    assert by_hand[0] != by_hand[1]
    assert int(after["calls"]) == 2  # state passes through both


def test_accumulation_that_does_not_divide(linear_task):
    task = linear_task()
    params, state = task.init(jax.random.key(0))
    batch = {"image": jnp.ones((4, 4)), "label": jnp.zeros((4,), jnp.int32)}
    with pytest.raises(SpecError, match="accumulate_steps=3 does not divide the batch of 4"):
        gradients(task, params, state, batch, jax.random.key(0), 3)


def test_step_updates_average_and_counts(linear_task):
    task = linear_task()
    transformation = SGD.build(jax.eval_shape(task.init, jax.random.key(0))[0], 5)
    state = create(task, transformation, jax.random.key(0), ema=True)
    batch = {"image": jnp.ones((4, 4)), "label": jnp.zeros((4,), jnp.int32)}
    step = build_step(task, transformation, rate=SGD.rate(5), ema_decay=0.9)
    new, metrics = jax.jit(step)(state, batch)
    assert int(new.step) == 1
    # Warm-up of the average: d = min(0.9, (1 + 0) / (10 + 0)) = 0.1.
    expected = 0.1 * state.params["body"]["kernel"] + 0.9 * new.params["body"]["kernel"]
    np.testing.assert_allclose(new.ema["body"]["kernel"], expected, atol=1e-6)
    assert float(metrics["learning_rate"]) == pytest.approx(0.1)
    moved = jax.tree.map(lambda old, now: (old - now) / 0.1, state.params, new.params)
    norm = np.sqrt(sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(moved)))
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert metrics["grad_finite"].all()


def test_moving_average_by_hand():
    # Step 89: (1 + 89) / (10 + 89) = 0.909 > 0.5, so d = 0.5: from 0 to 4 gives 2.
    assert float(moving_average(jnp.zeros(()), jnp.full((), 4.0), jnp.int32(89), 0.5)) == 2.0
    # Step 2: d = 3/12 = 0.25: 0.75 * 4 = 3.
    assert float(moving_average(jnp.zeros(()), jnp.full((), 4.0), jnp.int32(2), 0.5)) == 3.0


def test_first_failure_names_block_and_leaf():
    params = {"a": {"kernel": 0}, "b": {"kernel": 0}}
    fine = {"loss": 1.0, "block_01/load": np.ones(2), "grad_finite": np.array([True, True])}
    assert first_failure(params, fine) is None
    broken = fine | {"block_03/entropy": np.nan, "block_02/load": np.array([1, np.inf]), "loss": np.nan}
    message = first_failure(params, broken | {"grad_finite": np.array([True, False])})
    assert "first block: block_02 (metric 'block_02/load')" in message
    assert "1 of 2 gradient leaves, first b/kernel" in message and "loss nan" in message


@pytest.mark.parametrize(
    ("fields", "message"), [({"accumulate_steps": 0}, "at least 1"), ({"ema_decay": 1.0}, "must lie")]
)
def test_bad_fields(linear_task, fields, message):
    with pytest.raises(SpecError, match=message):
        build_step(linear_task(), SGD.build({"x": jnp.ones(1)}, 5), **fields)
