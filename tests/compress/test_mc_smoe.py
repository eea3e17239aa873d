"""MC-SMoE: grouping around dominant experts, matched neurons, and the merged kernel made small."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.expert_bank import averaging, num_params, read
from moejax.compress.low_rank_sparse import fit_low_rank_columns
from moejax.compress.mc_smoe import McSmoe, groups, logit_cosines, matching
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.low_rank_columns import LowRankColumns
from tests.compress.small_banks import D, E, F, bank, calibration, random, squared_error, with_router


def permuted_copies(kind, noise=0.0):
    """Expert 0 four times, its hidden neurons in another order each time."""
    params, draw = bank(kind), np.random.default_rng(11)
    orders = [np.arange(F), *(draw.permutation(F) for _ in range(E - 1))]

    def copies(name, leaf):
        own = np.asarray(leaf.kernel if isinstance(leaf, Dense) else leaf)[0]
        axis = {"down_bias": None, "down": 0}.get(name, own.ndim - 1)
        several = np.stack([own if axis is None else np.take(own, order, axis) for order in orders])
        several = jnp.asarray(several + noise * draw.normal(size=several.shape), jnp.float32)
        return Dense(several) if isinstance(leaf, Dense) else several

    return {name: copies(name, leaf) for name, leaf in params.items()}, orders


def one_expert(params):
    """Parameters when one dense expert is left, and all biases."""
    return sum(leaf.kernel[0].size if isinstance(leaf, Dense) else leaf.size for leaf in params.values())


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
def test_permuted_copies_merge_to_the_expert(kind):
    params, orders = permuted_copies(kind)
    method = McSmoe(num_merged=1)
    # Expert 3 received most rows: the others are brought into its order.
    made = method.compress_bank(with_router(params), calibration(params), num_params=one_expert(params))
    assert made["up"].index == (0, 0, 0, 0)
    for name in ("up", "down", *(("gate",) if kind == "swiglu" else ())):
        np.testing.assert_allclose(made[name].materialise()[0], params[name].kernel[3], atol=1e-6)
    if kind == "mlp":
        np.testing.assert_allclose(made["up_bias"], np.broadcast_to(params["up_bias"][3], (E, F)), atol=1e-6)
    without = McSmoe(num_merged=1, align=False)
    plain = without.compress_bank(with_router(params), calibration(params), num_params=one_expert(params))
    assert np.abs(plain["up"].materialise()[0] - params["up"].kernel[3]).max() > 0.1


def test_the_matching_undoes_a_permutation():
    params, orders = permuted_copies("mlp", noise=0.05)
    found = matching(read(params), 2, 0)
    np.testing.assert_array_equal(orders[2][found], np.arange(F))


def test_alignment_lowers_the_error_and_the_rank_of_the_merged():
    """Of noisy permuted copies: what they have in common stays with the neurons matched and averages out without."""
    params, _ = permuted_copies("mlp", noise=0.1)
    target = {name: params[name] for name in ("up", "down")}
    errors, tails = {}, {}
    for align in (True, False):
        method = McSmoe(num_merged=1, align=align)
        made = method.compress_bank(with_router(params), calibration(params), num_params=one_expert(params))
        dominant = {name: Dense(leaf.kernel[3:]) for name, leaf in target.items()}
        merged = {name: Dense(made[name].leaf.kernel) for name in target}
        errors[align] = squared_error(merged, dominant)
        values = np.linalg.svd(np.asarray(merged["up"].kernel[0], np.float64), compute_uv=False)
        tails[align] = values.sum() ** 2 / np.sum(values**2)
    assert errors[True] < 0.1 * errors[False]
    own = np.linalg.svd(np.asarray(params["up"].kernel, np.float64), compute_uv=False)
    assert tails[True] <= np.max(own.sum(1) ** 2 / np.sum(own**2, 1))  # no more spread out than its members


def test_groups_by_hand():
    # Experts 3 and 0 received most rows. Expert 1 resembles 0 (0.8 against 0.1), expert 2 resembles 3 (0.7 against 0.2).
    cosines = np.array([[1, 0.8, 0.2, 0], [0.8, 1, 0.5, 0.1], [0.2, 0.5, 1, 0.7], [0, 0.1, 0.7, 1]])
    dominant, index = groups(cosines, np.array([5.0, 3, 2, 9]), 2)
    assert dominant == [3, 0]
    assert index == (1, 1, 0, 0)
    np.testing.assert_allclose(
        averaging(np.array([5.0, 3, 2, 9]), index), [[0, 0, 2 / 11, 9 / 11], [5 / 8, 3 / 8, 0, 0]]
    )


def test_logit_cosines_by_hand():
    # Two rows, (1, 0) and (0, 1): the logits of an expert are its column of the router. (3, 4) and (4, 3): 24 / 25.
    params = bank(dim=2, num_experts=3)
    router = jnp.array([[3.0, 4.0, 0.0], [4.0, 3.0, 0.0]])
    statistics = calibration(params, count=(1.0, 1.0, 1.0))
    statistics["router"] = statistics["router"].replace(rows=jnp.eye(2))
    found = logit_cosines(params | {"router": router}, statistics)
    np.testing.assert_allclose(found, [[1, 0.96, 0], [0.96, 1, 0], [0, 0, 0]], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_alternation_never_rises_and_columns_are_exact(seed):
    kernel = random(seed, 6, 10)
    kernel[:, 3] *= 10
    last = np.inf
    for rounds in (1, 2, 3, 8):
        fitted = fit_low_rank_columns(kernel, 2, 3, rounds)
        error = np.sum((kernel - fitted.dense()) ** 2)
        np.testing.assert_allclose(fitted.dense()[:, fitted.positions], kernel[:, fitted.positions], atol=1e-9)
        assert error <= last * (1 + 1e-9)
        last = error
    others = np.delete(kernel, fitted.positions, axis=1)  # the factors are the best for what the columns leave
    np.testing.assert_allclose(last, np.sum(np.linalg.svd(others, compute_uv=False)[2:] ** 2), rtol=1e-9)
    plain = fit_low_rank_columns(kernel, 2, 0, 3)
    np.testing.assert_allclose(
        np.sum((kernel - plain.dense()) ** 2), np.sum(np.linalg.svd(kernel, compute_uv=False)[2:] ** 2), rtol=1e-9
    )


def test_a_low_rank_and_sparse_kernel_is_found():
    kernel = random(1, 8, 2) @ random(2, 2, 12)
    kernel[:, 5] += 20 * random(3, 8)
    fitted = fit_low_rank_columns(kernel, 2, 1, 5)
    assert fitted.positions.tolist() == [5]
    np.testing.assert_allclose(fitted.dense(), kernel, atol=1e-9)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_merged", [1, 3])
def test_the_budget_is_met_within_a_rank(fraction, num_merged):
    params = bank("swiglu")
    method = McSmoe(num_merged=num_merged, sparse_fraction=fraction)
    whole = num_merged * 3 * D * F
    for budget in (whole - 1, whole - 37, whole * 2 // 3):
        made = method.compress_bank(with_router(params), calibration(params), num_params=budget)
        assert budget - (D + F) < num_params(made) <= budget
        if fraction:
            assert isinstance(made["up"].leaf, LowRankColumns)


def test_by_default_merging_and_compressing_share_the_saving():
    # A quarter of the kernels' parameters: sqrt(1/4) * 4 = 2 experts, each of half its size.
    params = bank("swiglu")
    made = McSmoe().compress_bank(with_router(params), calibration(params), num_params=num_params(params) // 4)
    assert sorted(set(made["up"].index)) == [0, 1]


def test_what_is_missing_is_named():
    params = bank()
    half, statistics = num_params(params) // 2, calibration(params)
    with pytest.raises(SpecError, match="needs 'router'"):
        McSmoe().compress_bank(params, statistics, num_params=half)
    with pytest.raises(SpecError, match="no 'rows' of 'router'"):
        McSmoe().compress_bank(with_router(params), {"up": statistics["up"]}, num_params=half)
    with pytest.raises(SpecError, match="num_merged=0"):
        McSmoe(num_merged=0)
    with pytest.raises(SpecError, match="sparse_fraction=1.5"):
        McSmoe(sparse_fraction=1.5)
