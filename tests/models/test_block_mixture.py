"""Mixture of Blocks: all blocks are the transformer, some are those blocks alone, and a student learns from its teacher."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.core.segments import split_segments, stack
from moejax.diffusion.distillation import distillation_loss, group_feature_loss, output_loss
from moejax.evals.flops import count_flops
from moejax.models.block_mixture import BlockMixture
from moejax.models.dit import DiffusionTransformer

DENSE = DiffusionTransformer(image_size=8, patch_size=4, dim=8, depth=4, num_heads=2, mlp_dim=16, num_classes=3)
HALF = BlockMixture(model=DENSE, blocks_per_group=2, num_selected_blocks=1)
WHOLE = dataclasses.replace(HALF, num_selected_blocks=2)


def lively(seed=0):
    """Parameters of the dense model without zeros."""
    params, state = jax.jit(DENSE.init)(jax.random.key(seed))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    drawn = [leaf + 0.2 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, drawn), state


def batch(count=3):
    x = jax.random.normal(jax.random.key(9), (count, 8, 8, 3))
    return x, jnp.linspace(1.0, 990.0, count), jnp.arange(count) % 3


@pytest.mark.slow
def test_all_blocks_are_the_transformer():
    params, state = lively()
    wanted = jax.jit(DENSE.apply)(params, state, *batch()).prediction
    found = jax.jit(WHOLE.apply)(WHOLE.from_transformer(params, jax.random.key(3)), {}, *batch())
    assert np.abs(wanted).max() > 0.3
    np.testing.assert_allclose(found.prediction, wanted, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(found.metrics["blocks_02-03/load"], [1, 1])


def test_every_example_passes_its_own_blocks():
    params, _ = lively()
    mixed = HALF.from_transformer(params, jax.random.key(3), router_std=3.0)
    x, time, label = batch(6)
    condition = np.asarray(DENSE.condition(params["embedding"], time, label), np.float64)
    chosen = {name: (condition @ np.asarray(r["kernel"])).argmax(-1) for name, r in mixed["routers"].items()}
    assert len({tuple(pair) for pair in zip(*chosen.values(), strict=True)}) > 1  # not all the same way
    out = jax.jit(HALF.apply)(mixed, {}, x, time, label)
    single = split_segments(params["blocks"])
    short = jax.jit(dataclasses.replace(DENSE, depth=2).apply)
    for b in range(6):
        kept = [single[f"{chosen['00-01'][b]:02d}"], single[f"{2 + chosen['02-03'][b]:02d}"]]
        own = params | {"blocks": {"00-01": stack(kept)}}
        wanted = short(own, {"blocks": {"00-01": {}}}, x[b : b + 1], time[b : b + 1], label[b : b + 1])
        np.testing.assert_allclose(out.prediction[b], wanted.prediction[0], atol=1e-5, rtol=1e-5)
    for name, index in chosen.items():
        np.testing.assert_allclose(out.metrics[f"blocks_{name}/load"], [(index == 0).mean(), (index == 1).mean()])


def test_flops_are_those_of_the_chosen_blocks():
    counts = []
    for chosen in (1, 2):
        model = dataclasses.replace(HALF, num_selected_blocks=chosen)
        params, state = jax.eval_shape(model.init, jax.random.key(0))
        counts.append(count_flops(lambda p, model=model: model.apply(p, {}, *batch()).prediction, params))
    # D 8, F 16, 4 tokens: modulation 2*8*48; projections 4 * 2*4*8*8; scores and values 2 * 2*4*4*8; MLP 2 * 2*4*8*16.
    block = 768 + 2048 + 512 + 2048
    assert counts[1] - counts[0] == 3 * 2 * block  # examples, groups


@pytest.mark.slow
def test_routers_learn_and_the_balance_is_least_when_even():
    params, _ = lively()
    mixed = HALF.from_transformer(params, jax.random.key(3))

    def loss(mixed):
        out = HALF.apply(mixed, {}, *batch())
        return jnp.sum(jnp.square(out.prediction)), out.losses["block_balance"]

    gradient, balance = jax.jit(jax.grad(loss, has_aux=True))(mixed)
    assert np.any(gradient["routers"]["02-03"]["kernel"])
    assert 0.009 < float(balance) < 0.03  # 0.01 n sum(load * score), 0.01 when even


@pytest.mark.slow
def test_a_student_learns_from_its_teacher():
    params, _ = lively()
    whole, mixed = (model.from_transformer(params, jax.random.key(3)) for model in (WHOLE, HALF))

    def loss(mixed):
        wanted, teacher = WHOLE.apply_with_features(whole, {}, *batch(6))
        out, student = HALF.apply_with_features(mixed, {}, *batch(6))
        features = group_feature_loss(student, teacher)
        balance = out.losses["block_balance"]
        error = output_loss(out.prediction, wanted.prediction)
        return distillation_loss(error, features, balance, feature_weight=0.5), jnp.mean(error)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    errors = []
    for _ in range(60):
        (_, error), gradient = step(mixed)
        errors.append(float(error))
        mixed = jax.tree.map(lambda leaf, slope: leaf - 0.01 * jnp.clip(slope, -1.0, 1.0), mixed, gradient)
    assert errors[-1] < 0.5 * errors[0]


def test_what_does_not_fit():
    with pytest.raises(SpecError, match="blocks_per_group=3 must divide the depth 4"):
        dataclasses.replace(HALF, blocks_per_group=3)
    with pytest.raises(SpecError, match="num_selected_blocks=3 must lie between 1 and blocks_per_group=2"):
        dataclasses.replace(HALF, num_selected_blocks=3)
    with pytest.raises(SpecError, match="balance_loss_weight=-1"):
        dataclasses.replace(HALF, balance_loss_weight=-1.0)
