"""Spectral fine-tuning through the library call: what is rewritten, what trains, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moejax.compress import compress
from moejax.compress.spectral_tuning import frozen_but_spectra
from moejax.core.errors import SpecError
from moejax.core.tree import flatten
from moejax.linear.dense import Dense
from moejax.linear.spectral import Spectral
from moejax.train.optimizers import Optimizer
from tests.compress.small_banks import random


def model():
    """A classifier of plain arrays and leaves: 6 -> 5 -> 3."""
    array = lambda seed, *shape: jnp.asarray(random(seed, *shape), jnp.float32)  # noqa: E731
    return {
        "hidden": {"kernel": array(0, 6, 5), "bias": array(1, 5)},
        "attention": {"query": Dense(array(2, 5, 5))},
        "head": {"kernel": array(3, 5, 3), "bias": jnp.zeros(3)},
    }


def logits(params, x):
    times = lambda x, w: w.matmul(x) if hasattr(w, "matmul") else x @ w  # noqa: E731
    bias = lambda layer, y: y + jnp.broadcast_to(layer["bias"], y.shape)  # noqa: E731
    hidden = jnp.tanh(bias(params["hidden"], times(x, params["hidden"]["kernel"])))
    hidden = hidden + jnp.tanh(times(hidden, params["attention"]["query"]))
    return bias(params["head"], times(hidden, params["head"]["kernel"]))


@pytest.mark.parametrize("method", ["svdiff", {"name": "svfit", "rank": 2}, {"name": "svft", "pattern": "banded"}])
def test_the_function_stays_and_only_spectra_train(method):
    params = model()
    made = compress(params, method=method, only="hidden/kernel|query")
    x = jnp.asarray(random(5, 40, 6), jnp.float32)
    np.testing.assert_allclose(logits(made.params, x), logits(params, x), atol=1e-4)
    assert made.params["head"]["kernel"] is params["head"]["kernel"]
    assert all(row.plain_error < 1e-6 for row in made.report.weights)

    patterns = frozen_but_spectra(made.params, trained=("^head/bias$",))
    optimiser = Optimizer(name="adamw", learning_rate=0.05, schedule="constant", frozen=patterns).build(made.params, 60)
    labels = jnp.argmax(x[:, :3], axis=1)  # another task than the kernels were drawn for

    def loss(params):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), labels))

    @jax.jit
    def step(params, state):
        updates, state = optimiser.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    tuned, state = made.params, optimiser.init(made.params)
    for _ in range(60):
        tuned, state = step(tuned, state)
    assert loss(tuned) < 0.8 * loss(made.params)
    before, after = flatten(made.params), flatten(tuned)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.rpartition("/")[2] for name in moved} == {"bias", "coefficients" if "svft" in str(method) else "shift"}
    assert "hidden/bias" not in moved
    trained = sum(before[name].size for name in moved - {"head/bias"})
    assert trained == made.report.after


def test_a_bank_of_experts():
    bank = {"up": Dense(jnp.asarray(random(0, 3, 4, 6), jnp.float32))}
    made = compress(bank, method="svdiff")
    assert isinstance(made.params["up"], Spectral)
    assert made.report.after == 3 * 4
    assert frozen_but_spectra(made.params) == (r"^up/u$", r"^up/spectrum$", r"^up/v$")


def test_a_budget_is_refused():
    with pytest.raises(SpecError, match="leave out budget=0.5"):
        compress(model(), method="svdiff", budget=0.5)
    with pytest.raises(SpecError, match="budget=None must be positive"):
        compress(model(), method="svd")
