"""Probabilities by hand, counts by their means, information by its flat directions; a constant expert splits exactly."""

import numpy as np
import pytest

from moejax.core.errors import SpecError
from moejax.theory.identifiability import flat_directions, parameter_names
from moejax.theory.multinomial_moe import MultinomialMoE, split_constant_expert

PARAMS = {
    "gate": {"bias": np.array([0.2, 0.0]), "kernel": np.array([[1.5, 0.0]])},
    "intercept": np.array([[2.0, -1.0, 0.5], [-1.5, 1.0, 0.0]]),
    "slope": np.array([[1.0, 0.5, -1.0], [-0.5, 1.0, 0.7]]),
}
X = np.linspace(-3, 3, 40)


def by_hand(params, inputs):
    gates = np.exp(inputs[:, None] * params["gate"]["kernel"] + params["gate"]["bias"])
    gates /= gates.sum(axis=1, keepdims=True)
    scores = np.exp(params["intercept"] + X[:, None, None] * params["slope"])
    scores = np.concatenate([scores, np.ones((len(X), len(gates.T), 1))], axis=2)
    return (gates[:, :, None] * scores / scores.sum(axis=2, keepdims=True)).sum(axis=1)


def test_probabilities_of_both_gates():
    for gate, inputs in (("identity", X), ("tanh", np.tanh(X))):
        found = MultinomialMoE(gate_input=gate).probabilities(PARAMS, X)
        np.testing.assert_allclose(found, by_hand(PARAMS, inputs), rtol=1e-13)
        np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-14)


def test_counts_have_the_means_of_the_density():
    counts = MultinomialMoE().counts(PARAMS, X, 10**10, np.random.default_rng(0))
    assert counts.shape == (40, 4) and counts.sum() == 10**10
    np.testing.assert_allclose(counts / 1e10 * 40, by_hand(PARAMS, X), atol=2e-4)


def test_only_the_gates_translations_are_flat():
    information = MultinomialMoE().fisher_information(PARAMS, X)
    flat = flat_directions(information, parameter_names(PARAMS), tolerance=1e-11)
    assert [set(one.change) for one in flat] == [
        {"gate bias 0", "gate bias 1"},
        {"gate kernel 0 0", "gate kernel 0 1"},
    ]


@pytest.mark.parametrize("gate", ["identity", "tanh"])
def test_a_constant_expert_splits_into_a_continuum_of_pairs(gate):
    constant = PARAMS | {"slope": np.stack([np.zeros(3), PARAMS["slope"][1]])}
    model = MultinomialMoE(gate_input=gate)
    q = np.exp([2.0, -1.0, 0.5, 0.0]) / np.exp([2.0, -1.0, 0.5, 0.0]).sum()
    for share, probabilities in ((0.4, np.array([0.6, 0.05, 0.25, 0.1])), (0.1, np.full(4, 0.25)), (0.5, q)):
        split = split_constant_expert(constant, 0, share, probabilities)
        assert len(split["intercept"]) == 3
        assert np.abs(model.probabilities(split, X) - model.probabilities(constant, X)).max() < 1e-14
    # Moved along the set, the two experts are really different ones.
    assert np.abs(split["intercept"][0] - split["intercept"][1]).max() < 1e-12
    split = split_constant_expert(constant, 0, 0.4, np.array([0.6, 0.05, 0.25, 0.1]))
    assert np.abs(split["intercept"][0] - split["intercept"][1]).max() > 0.3


def test_what_cannot_be_split_is_refused():
    with pytest.raises(SpecError, match="it must be constant"):
        split_constant_expert(PARAMS, 0, 0.4, np.full(4, 0.25))
    constant = PARAMS | {"slope": np.zeros((2, 3))}
    with pytest.raises(SpecError, match="share=0.9"):
        split_constant_expert(constant, 0, 0.9, np.full(4, 0.25))
