"""Sub-MoE: who joins whom, what the merged expert is, and what truncation costs."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.expert_bank import averaging, num_params
from moejax.compress.output_clusters import cluster, output_cosines
from moejax.compress.sub_moe import SubMoE, in_shared_basis, shared_basis
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.indexed import Indexed
from moejax.linear.low_rank import LowRank
from tests.compress.small_banks import D, E, F, bank, calibration, kernels, random

COUNT = (5.0, 3.0, 2.0, 9.0)


def pairs(kind):
    """Experts 0 and 2 are one, 1 and 3 another."""
    params = bank(kind)
    order = jnp.array([0, 1, 0, 1])
    return {
        name: Dense(leaf.kernel[order]) if isinstance(leaf, Dense) else leaf[order] for name, leaf in params.items()
    }


def dense_size(params, experts):
    """Parameters of so many experts, and all biases."""
    biases = sum(leaf.size for leaf in params.values() if not isinstance(leaf, Dense))
    return biases + experts * sum(leaf.kernel[0].size for leaf in params.values() if isinstance(leaf, Dense))


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
def test_identical_experts_merge_to_themselves(kind):
    params = pairs(kind)
    made = SubMoE().compress_bank(params, calibration(params), num_params=dense_size(params, 2))
    assert made["up"].index == made["down"].index == (0, 1, 0, 1)
    assert num_params(made) == dense_size(params, 2)
    for name, leaf in params.items():
        found = made[name].materialise() if isinstance(leaf, Dense) else made[name]
        np.testing.assert_allclose(found, leaf.materialise() if isinstance(leaf, Dense) else leaf, atol=1e-6)


def test_one_cluster_by_hand():
    # Two experts of one number each, 1 and 5, that received 3 rows and 1: (3 * 1 + 1 * 5) / 4 = 2.
    up = jnp.array([[[1.0]], [[5.0]]])
    params = {"up": Dense(up), "down": Dense(2 * up)}
    statistics = calibration(params, count=(3.0, 1.0))
    made = SubMoE(num_merged=1).compress_bank(params, statistics, num_params=2)
    np.testing.assert_allclose(made["up"].materialise(), np.full((2, 1, 1), 2.0), rtol=1e-6)
    np.testing.assert_allclose(made["down"].materialise(), np.full((2, 1, 1), 4.0), rtol=1e-6)
    assert num_params(made) == 2


def test_untruncated_it_is_the_average_by_frequency():
    params = bank("swiglu")
    made = SubMoE().compress_bank(params, calibration(params), num_params=dense_size(params, 2))
    index, count = np.asarray(made["up"].index), np.asarray(COUNT)
    assert sorted(set(index.tolist())) == [0, 1]
    for name, kernel in kernels(params).items():
        for e in range(E):
            members = index == index[e]
            wanted = np.einsum("e,edf->df", count[members] / count[members].sum(), kernel[members])
            np.testing.assert_allclose(made[name].materialise()[e], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
def test_the_joint_decomposition(shape):
    """The basis is that of all kernels side by side, every kernel comes back, and merging is linear."""
    members = list(random(0, 3, *shape))
    basis = shared_basis(members)
    side = np.concatenate(members, 1 if shape[0] <= shape[1] else 0)
    values = np.linalg.svd(side, compute_uv=False)
    parts = [in_shared_basis(basis, kernel) for kernel in members]
    for (u, v), kernel in zip(parts, members, strict=True):
        np.testing.assert_allclose(u @ v, kernel, atol=1e-12)
    own = [v if shape[0] <= shape[1] else u.T for u, v in parts]  # the coordinates S V_i^T
    found = np.sqrt(sum(np.sum(part**2, axis=1) for part in own))
    np.testing.assert_allclose(found, values[: min(shape)], rtol=1e-9)
    frequency = np.array([0.5, 0.3, 0.2])
    average = np.einsum("e,edf->df", frequency, np.stack(members))
    merged = sum(f * part for f, part in zip(frequency, own, strict=True))
    rebuilt = basis[0] @ merged if shape[0] <= shape[1] else merged.T @ basis[0].T
    np.testing.assert_allclose(rebuilt, average, atol=1e-12)


def test_truncation_meets_the_budget_and_costs_the_tail():
    params, method = bank(), SubMoE(num_merged=2)
    biases, unit = E * (D + F), D + F
    for units in (4, 7, 13):
        budget = biases + units * unit + 5
        made = method.compress_bank(params, calibration(params), num_params=budget)
        assert isinstance(made["up"], Indexed) and isinstance(made["up"].leaf, LowRank)
        assert budget - unit < num_params(made) == biases + units * unit
        index = np.asarray(made["up"].index)
        weight = averaging(np.asarray(COUNT), made["up"].index)
        for name, kernel in kernels(params).items():
            ranks = made[name].leaf.ranks or (made[name].leaf.u.shape[-1],) * 2
            for group in range(2):
                average = np.einsum("e,edf->df", weight[group], kernel)
                side = np.concatenate(list(kernel[index == group]), 1 if name == "up" else 0)
                outer, _, inner = np.linalg.svd(side, full_matrices=False)
                coordinates = outer.T @ average if name == "up" else (average @ inner.T).T
                error = np.sum((made[name].leaf.materialise()[group] - average) ** 2)
                np.testing.assert_allclose(error, np.sum(coordinates[ranks[group] :] ** 2), rtol=1e-4)
                # Not below the best approximation of the average itself: nothing is won in this norm by sharing.
                assert error >= np.sum(np.linalg.svd(average, compute_uv=False)[ranks[group] :] ** 2) * (1 - 1e-4)


def test_experts_of_the_same_outputs_are_found():
    params = bank("mlp")
    order = np.random.default_rng(3).permutation(F)
    twin = {
        "up": Dense(params["up"].kernel.at[3].set(params["up"].kernel[1][:, order])),
        "up_bias": params["up_bias"].at[3].set(params["up_bias"][1][order]),
        "down": Dense(params["down"].kernel.at[3].set(params["down"].kernel[1][order])),
        "down_bias": params["down_bias"].at[3].set(params["down_bias"][1]),
    }
    cosines = output_cosines(twin, random(4, 300, D), None)  # more rows than are computed at once
    np.testing.assert_allclose(cosines[1, 3], 1.0, atol=1e-5)
    np.testing.assert_allclose(np.diagonal(cosines), 1.0, atol=1e-9)
    assert cluster(cosines, 3, first=0)[1] == cluster(cosines, 3, first=0)[3]
    assert len(set(cluster(cosines, 3, first=0))) == 3


def test_clusters_by_hand():
    # Directions in the plane at 0, 10, 90 and 100 degrees: two pairs; then each alone; then all together.
    angle = np.deg2rad([0.0, 90.0, 10.0, 100.0])
    cosines = np.cos(angle[:, None] - angle[None, :])
    assert cluster(cosines, 2, first=0) == (0, 1, 0, 1)
    assert sorted(cluster(cosines, 4, first=2)) == [0, 1, 2, 3]
    assert cluster(cosines, 1, first=3) == (0, 0, 0, 0)
    assert len(set(cluster(np.ones((4, 4)), 3, first=0))) == 3  # equal experts: no cluster is empty


def test_averaging_by_hand():
    found = averaging(np.array([3.0, 1.0, 0.0, 0.0]), (0, 0, 1, 1))
    np.testing.assert_array_equal(found, [[0.75, 0.25, 0, 0], [0, 0, 0.5, 0.5]])


def test_what_is_missing_is_named():
    params = bank()
    statistics = calibration(params)
    half = num_params(params) // 2
    with pytest.raises(SpecError, match="no 'rows' of 'router'"):
        SubMoE().compress_bank(params, {"up": statistics["up"]}, num_params=half)
    with pytest.raises(SpecError, match="no 'count' of 'up'"):
        SubMoE().compress_bank(params, {}, num_params=half)
    with pytest.raises(SpecError, match="4 experts"):
        SubMoE().compress_bank(params, calibration(params, count=(1.0, 2.0)), num_params=half)
    broken = statistics | {"up": statistics["up"].replace(count=jnp.array([1.0, np.nan, 1.0, 1.0]))}
    with pytest.raises(SpecError, match="'up': 'count' holds NaN"):
        SubMoE().compress_bank(params, broken, num_params=half)
    with pytest.raises(SpecError, match="num_merged=0"):
        SubMoE(num_merged=0)
    with pytest.raises(SpecError, match="activation='gleu'.*Did you mean 'gelu'"):
        SubMoE(activation="gleu")
