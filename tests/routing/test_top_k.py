"""Top-k by hand: 4 tokens x 3 experts. Tokens are one-hot, so the kernel's rows are the logits of the tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.routing.gates.linear import Linear
from moejax.routing.logits import add_noise
from moejax.routing.top_k import TopKRouter

# Gates (softmax of these logarithms) are the numbers themselves: each row sums to one.
GATES = np.asarray([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.1, 0.4], [0.2, 0.7, 0.1]], np.float32)
X = jnp.eye(4)[None]
PARAMS = {"kernel": jnp.log(GATES)}


def route(state=None, key=None, params=PARAMS, **fields):
    return jax.jit(TopKRouter(num_experts=3, **fields).route)(params, state or {}, X, key=key)


def test_softmax_then_top_k_keeps_the_gates():
    plan = route(num_selected_experts=2).plan
    np.testing.assert_array_equal(plan.expert[0], [[0, 1], [0, 1], [0, 2], [1, 0]])
    np.testing.assert_allclose(plan.weight[0], [[0.7, 0.2], [0.6, 0.3], [0.5, 0.4], [0.7, 0.2]], rtol=1e-5)
    assert plan.capacity is None and plan.priority is None and plan.num_experts == 3


def test_switch_is_k_1():
    plan = route(capacity_factor=1.0).plan
    np.testing.assert_array_equal(plan.expert[0, :, 0], [0, 0, 0, 1])
    np.testing.assert_allclose(plan.weight[0, :, 0], [0.7, 0.6, 0.5, 0.7], rtol=1e-5)
    assert plan.capacity == 2  # ceil(4 * 1 / 3)


@pytest.mark.parametrize("fields", [{"renormalize": True}, {"order": "top_k_then_softmax"}])
def test_renormalised_weights_sum_to_one(fields):
    # 0.7 / 0.9, 0.2 / 0.9; 0.6 / 0.9, 0.3 / 0.9; 0.5 / 0.9, 0.4 / 0.9; 0.7 / 0.9, 0.2 / 0.9: both options agree.
    weight = route(num_selected_experts=2, **fields).plan.weight
    np.testing.assert_allclose(weight[0], np.asarray([[7, 2], [6, 3], [5, 4], [7, 2]]) / 9, rtol=1e-5)


def test_sigmoid_scores():
    # sigmoid(log g) = g / (1 + g): 0.7 -> 0.41176, 0.2 -> 0.16667 for the first token.
    weight = route(num_selected_experts=2, scores="sigmoid").plan.weight
    np.testing.assert_allclose(weight[0, 0], [0.7 / 1.7, 0.2 / 1.2], rtol=1e-5)
    weight = route(num_selected_experts=2, scores="sigmoid", renormalize=True).plan.weight
    # 0.41176 / (0.41176 + 0.16667) = 0.71186.
    np.testing.assert_allclose(weight[0, 0], [0.711864, 0.288136], rtol=1e-4)


def test_priority_is_the_largest_gate():
    plan = route(num_selected_experts=2, capacity_factor=0.5, batch_priority=True).plan
    np.testing.assert_allclose(plan.priority[0], [0.7, 0.6, 0.5, 0.7], rtol=1e-5)
    assert plan.capacity == 2  # ceil(0.5 * 4 * 2 / 3) = ceil(1.33)
    assert route(num_selected_experts=2, batch_priority=True).plan.priority is None  # dropless: nobody waits


def test_losses_by_hand():
    # importance 0.15875 and balance (top-1) 1.36875: see test_losses. z: every row's logsumexp is log 1 = 0.
    losses = route(noise_std=0.0, importance_loss_weight=2.0, balance_loss_weight=0.5, z_loss_weight=1.0).losses
    assert set(losses) == {"importance", "balance", "z"}
    np.testing.assert_allclose(losses["importance"], 2.0 * 0.15875, rtol=1e-4)
    np.testing.assert_allclose(losses["balance"], 0.5 * 1.36875, rtol=1e-5)
    np.testing.assert_allclose(losses["z"], 0.0, atol=1e-10)
    assert route().losses == {}


def test_load_loss_exists_in_training_only_and_matches_its_definition():
    fields = {"num_selected_experts": 1, "load_loss_weight": 1.0, "noise_std": 3.0}
    assert route(**fields).losses == {}
    routed = route(key=jax.random.key(0), **fields)
    # noise_std / E = 1, so an expert's probability is Phi(clean - largest noisy logit).
    noisy = np.asarray(add_noise(jax.random.key(0), jnp.log(GATES)[None], 1.0)[0])
    load = norm.cdf(np.log(GATES) - noisy.max(axis=-1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(routed.losses["load"], load.var() / load.mean() ** 2, rtol=1e-4)
    np.testing.assert_array_equal(routed.plan.expert[0, :, 0], noisy.argmax(axis=-1))


def test_noise_has_standard_deviation_noise_std_over_e():
    x = jnp.zeros((1, 4000, 4))
    router = TopKRouter(num_experts=3, num_selected_experts=3, noise_std=1.5)
    plan = jax.jit(router.route)(PARAMS, {}, x, key=jax.random.key(1)).plan
    gates = np.take_along_axis(np.asarray(plan.weight[0]), np.argsort(plan.expert[0], axis=-1), axis=-1)
    # The difference of two noises has std sqrt(2) * 1.5 / 3 = 0.7071; 4000 draws know it to 0.7071 / sqrt(8000) = 0.008.
    assert abs(np.std(np.log(gates[:, 0] / gates[:, 1])) - 0.7071) < 0.032


def test_k_equal_to_e_is_the_dense_mixture():
    plan = route(num_selected_experts=3).plan
    dense = np.zeros((4, 3), np.float32)
    np.put_along_axis(dense, np.asarray(plan.expert[0]), np.asarray(plan.weight[0]), axis=-1)
    np.testing.assert_allclose(dense, GATES, rtol=1e-5)


def test_metrics_by_hand():
    metrics = route(num_selected_experts=2).metrics
    # Choices: 4 of 8 to expert 0, 3 to 1, 1 to 2. Gaps 0.5, 0.3, 0.1, 0.5: mean 0.35.
    np.testing.assert_allclose(metrics["load"], [0.5, 0.375, 0.125])
    np.testing.assert_allclose(metrics["margin"], 0.35, rtol=1e-5)
    # -sum p log p: 0.801819, 0.897946, 0.943348, 0.801819; mean 0.861233.
    np.testing.assert_allclose(metrics["entropy"], 0.861233, rtol=1e-5)


def test_bias_selects_but_does_not_weigh():
    state = {"bias": jnp.asarray([-0.6, 0.0, 0.0])}
    fields = {"noise_std": 0.0, "bias_update_rate": 0.1}
    plan = route(state, **fields).plan
    # Scores minus bias: (0.1, 0.2, 0.1), (0.0, 0.3, 0.1), (-0.1, 0.1, 0.4), (-0.4, 0.7, 0.1).
    np.testing.assert_array_equal(plan.expert[0, :, 0], [1, 1, 2, 1])
    np.testing.assert_allclose(plan.weight[0, :, 0], [0.2, 0.3, 0.4, 0.7], rtol=1e-5)


def test_bias_moves_against_the_load_in_training_only():
    state = {"bias": jnp.zeros(3)}
    fields = {"noise_std": 0.0, "bias_update_rate": 0.1}
    # Load (3/4, 1/4, 0) against 1/3: expert 0 goes down, 1 and 2 go up.
    moved = route(state, key=jax.random.key(0), **fields).state
    np.testing.assert_allclose(moved["bias"], [-0.1, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(route(state, **fields).state["bias"], np.zeros(3))


def test_bias_balances_a_lopsided_router():
    # Every token prefers expert 0; only the bias can spread them.
    x = jax.random.normal(jax.random.key(0), (1, 64, 4)) + 1.0
    params = {"kernel": jnp.asarray([[1.0, 0.0, 0.0]] * 4) + 0.3 * jax.random.normal(jax.random.key(1), (4, 3))}
    router = TopKRouter(num_experts=3, noise_std=0.0, scores="sigmoid", bias_update_rate=0.005)
    step = jax.jit(lambda state: router.route(params, state, x, key=jax.random.key(2)))
    state = {"bias": jnp.zeros(3)}
    first = step(state).metrics["load"]
    for _ in range(100):
        state = step(state).state
    last = step(state).metrics["load"]
    assert first.max() > 0.9
    assert last.max() < 0.5


def test_sigmoid_weights_survive_scores_that_underflow():
    params = {"kernel": jnp.full((4, 3), -300.0)}
    routed, gradient = jax.value_and_grad(
        lambda p: route(params=p, num_selected_experts=2, scores="sigmoid", renormalize=True).plan.weight[..., 0].sum()
    )(params)
    np.testing.assert_allclose(routed, 2.0)  # four tokens, half each
    assert np.isfinite(gradient["kernel"]).all()


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_selected_experts": 4}, "num_selected_experts=4 is more than num_experts=3"),
        ({"num_selected_experts": 0}, "num_selected_experts=0 must be at least 1"),
        ({"capacity_factor": 0.0}, "capacity_factor=0.0 must be positive"),
        ({"eval_capacity_factor": -2.0}, "eval_capacity_factor=-2.0 must be positive"),
        ({"capacity_multiple": 0}, "capacity_multiple=0 must be at least 1"),
        ({"noise_std": -1.0}, "noise_std=-1.0 must be finite and not negative"),
        ({"scores": "sigmoid", "order": "top_k_then_softmax"}, "uses no sigmoid"),
        ({"load_loss_weight": 0.1, "noise_std": 0.0}, "load_loss_weight > 0 needs noise_std > 0"),
        ({"load_loss_weight": 0.1, "bias_update_rate": 0.1}, "exclude each other"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(SpecError, match=message):
        build_method("routing", {"name": "top_k", "num_experts": 3, **fields})


def test_capacity_that_rounds_to_zero_is_an_error_before_anything_is_computed():
    router = TopKRouter(num_experts=3, capacity_factor=0.1, capacity_rounding="round")
    with pytest.raises(SpecError, match="rounds to zero"):
        jax.eval_shape(lambda x: router.route(PARAMS, {}, x), X)


def test_eval_factor_from_config():
    def build(value):
        return build_method("routing", {"name": "top_k", "num_experts": 3, "eval_capacity_factor": value})

    assert build("train").eval_capacity_factor == "train"
    assert build(None).eval_capacity_factor is None
    assert build(2).eval_capacity_factor == 2.0
    with pytest.raises(SpecError, match="eval_capacity_factor='trian'"):
        build("trian")


def test_device_level_loss_and_its_devices():
    # On one device the loss is its weight; on as many devices as experts it is the balance loss (1.36875, see test_losses).
    for devices, wanted in ((1, 1.0), (3, 1.36875)):
        losses = route(noise_std=0.0, device_balance_loss_weight=2.0, num_devices=devices).losses
        np.testing.assert_allclose(losses["device_balance"], 2.0 * wanted, rtol=1e-5)
    with pytest.raises(SpecError, match="num_devices=2 must divide num_experts=3"):
        TopKRouter(num_experts=3, num_devices=2)


def test_groups_are_balanced_each_or_together():
    # Two groups of two tokens. Each alone is lopsided: (0, 0) and (1, 2) of three experts; together 1/2, 1/4, 1/4.
    params = {"kernel": jnp.log(GATES[jnp.asarray([0, 1, 3, 2])])}
    params["kernel"] = params["kernel"].at[3].set(jnp.log(jnp.asarray([0.1, 0.1, 0.8])))
    x = jnp.eye(4).reshape(2, 2, 4)
    losses, devices, sequences = {}, {}, {}
    weights = {f"{name}balance_loss_weight": 1.0 for name in ("", "device_", "sequence_")}
    for groups in ("each", "together"):
        router = TopKRouter(num_experts=3, noise_std=0.0, num_devices=3, balance_groups=groups, **weights)
        found = router.route(params, {}, x).losses
        losses[groups], devices[groups], sequences[groups] = (
            float(found[f"{name}balance"]) for name in ("", "device_", "sequence_")
        )
    # Each: f = (1, 0, 0), P = (.65, .25, .1): 3 * .65 = 1.95; f = (0, .5, .5), P = (.15, .4, .45): 3 * .425 = 1.275.
    # Together: f = (.5, .25, .25), P = (.4, .325, .275): 3 * (.2 + .08125 + .06875) = 1.05.
    np.testing.assert_allclose([losses["each"], losses["together"]], [(1.95 + 1.275) / 2, 1.05], rtol=1e-5)
    # One expert per device: the device-level loss is the same. The sequence-level one never mixes groups.
    assert devices == pytest.approx(losses, rel=1e-5)
    assert sequences == pytest.approx(dict.fromkeys(losses, losses["each"]), rel=1e-5)


def test_kaiming_uniform_kernels_lie_within_one_over_the_root_of_the_width():
    kernel = TopKRouter(num_experts=64, gate=Linear(kernel_init="kaiming_uniform")).init(jax.random.key(0), 100)[0][
        "kernel"
    ]
    assert 0.099 < np.abs(kernel).max() <= 0.1  # kaiming with slope sqrt(5): sqrt(6 / (1 + 5)) / sqrt(100)
    np.testing.assert_allclose(np.std(kernel), 0.1 / np.sqrt(3), rtol=0.03)
