"""Banks on the host: what is read, counted and refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from moejax.compress.expert_bank import num_params, read, spread, unchanged
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.low_rank import LowRank
from tests.compress.small_banks import D, E, F, bank, random, with_router


def test_what_is_counted():
    params = bank("mlp")
    assert num_params(params) == num_params(with_router(params)) == read(with_router(params)).num_params
    assert num_params(params) == E * (2 * D * F + D + F)
    host = read(params)
    assert (host.num_experts, host.num_biases, host.expert_size, host.rank_cost) == (E, E * (D + F), 2 * D * F, D + F)
    thin = LowRank(jnp.zeros((2, 3, 4)), jnp.zeros((2, 4, 5)), (1, 4))
    assert num_params({"up": thin}) == 5 * (3 + 5)  # padding does not count
    assert "router" not in unchanged(with_router(params))


def test_bfloat16_is_read_exactly():
    kernel = jnp.asarray(random(0, E, D, F), jnp.bfloat16)
    host = read(bank("mlp") | {"up": Dense(kernel)})
    np.testing.assert_array_equal(host.kernel("up", 1), np.asarray(kernel[1], np.float64))
    assert host.dtype("up") == jnp.bfloat16


def test_what_is_refused():
    params = bank("mlp")
    broken = params | {"down": Dense(params["down"].kernel.at[2, 0, 0].set(jnp.nan))}
    with pytest.raises(SpecError, match="down: the kernel of expert 2 holds NaN"):
        read(broken)
    with pytest.raises(SpecError, match=r"\['down'\] are not among \['up'\]"):
        read({"up": params["up"]})
    with pytest.raises(SpecError, match=r"down has shape \(4, 6, 8\)"):
        read(params | {"down": params["up"]})


def test_spread_by_hand():
    # 5 units over 3 entries: one each, then the two with the largest second energies 4 and 3.
    energies = [np.array([9.0, 1.0]), np.array([5.0, 4.0]), np.array([8.0, 3.0])]
    assert spread(5, energies) == [1, 2, 2]
    assert spread(99, energies) == [2, 2, 2]  # there are no more
