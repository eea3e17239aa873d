"""Two MLP experts with numbers small enough to work out on paper."""

import jax.numpy as jnp
import numpy as np

from moejax.core.layouts import Buffers, Ragged
from moejax.experts.mlp import MlpExperts
from moejax.linear.dense import Dense

PARAMS = {  # E = 2, D = 1, F = 2
    "up": Dense(jnp.asarray([[[1.0, -1.0]], [[0.5, 1.0]]])),
    "up_bias": jnp.asarray([[0.0, 1.0], [1.0, 0.0]]),
    "down": Dense(jnp.asarray([[[2.0], [3.0]], [[1.0], [4.0]]])),
    "down_bias": jnp.asarray([[0.5], [0.0]]),
}
BANK = MlpExperts(expert_dim=2, activation="relu")


def test_each_row_passes_its_own_expert():
    # Expert 0, x = 2: relu(2, -2 + 1) = (2, 0), times (2, 3) is 4, plus 0.5.  x = 0: relu(0, 1) = (0, 1): 3 + 0.5.
    # Expert 1, x = -1: relu(-0.5 + 1, -1) = (0.5, 0): 0.5.                    x = 1: relu(1.5, 1): 1.5 + 4.
    out = BANK.apply(PARAMS, Buffers(jnp.asarray([[[2.0], [0.0]], [[-1.0], [1.0]]])))
    np.testing.assert_allclose(out.tokens[..., 0], [[4.5, 3.5], [0.5, 5.5]], rtol=1e-6)


def test_ragged_rows_without_an_expert_stay_zero():
    out = BANK.apply(PARAMS, Ragged(jnp.asarray([[2.0], [-1.0], [1.0], [0.0]]), jnp.asarray([1, 2])))
    np.testing.assert_allclose(out.tokens[:, 0], [4.5, 0.5, 5.5, 0.0], rtol=1e-6)
