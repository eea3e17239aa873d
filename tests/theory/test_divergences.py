"""Distances of Gaussian densities have closed forms."""

import numpy as np
import pytest
from scipy.stats import norm

from moejax.core.errors import SpecError
from moejax.theory.divergences import between, hellinger, kullback_leibler
from moejax.theory.gaussian_moe import GaussianMoE
from moejax.theory.lattice import Lattice

GRID = np.arange(-12, 12, 0.05)


def closed_forms(m1, s1, m2, s2):
    kl = np.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
    total = s1**2 + s2**2
    square = 1 - np.sqrt(2 * s1 * s2 / total) * np.exp(-((m1 - m2) ** 2) / (4 * total))
    return np.sqrt(square), kl


@pytest.mark.parametrize("normals", [(0.0, 1.0, 0.5, 1.3), (-1.0, 0.5, 1.0, 0.4), (0.0, 1.0, 0.0, 1.0)])
def test_normal_densities(normals):
    m1, s1, m2, s2 = normals
    log_p, log_q = norm.logpdf(GRID, m1, s1), norm.logpdf(GRID, m2, s2)
    distance, divergence = closed_forms(*normals)
    assert hellinger(log_p, log_q, 0.05) == pytest.approx(distance, abs=1e-12)
    assert kullback_leibler(log_p, log_q, 0.05) == pytest.approx(divergence, abs=1e-12)


def test_densities_that_nearly_agree_keep_their_digits():
    shift = (
        1e-6  # KL is shift^2 / 2, the Hellinger distance shift / sqrt(8): far below what differences of sums could tell
    )
    log_p, log_q = norm.logpdf(GRID, 0, 1), norm.logpdf(GRID, shift, 1)
    assert kullback_leibler(log_p, log_q, 0.05) == pytest.approx(shift**2 / 2, rel=1e-3)
    assert hellinger(log_p, log_q, 0.05) == pytest.approx(shift / np.sqrt(8), rel=1e-6)


def one_expert(weight, bias, variance):
    gate = {"kernel": np.zeros((1, 1)), "bias": np.zeros(1)}
    return {"gate": gate, "weight": np.array([weight]), "bias": np.array([bias]), "log_variance": np.log([variance])}


def test_between_two_regressions():
    lattice = Lattice(num_inputs=5)
    found = between(GaussianMoE(), one_expert(1.0, 0.0, 0.25), one_expert(0.5, 0.3, 0.36), lattice)
    each = [closed_forms(x, 0.5, 0.5 * x + 0.3, 0.6) for x in np.linspace(-1, 1, 5)]
    assert found["kl"] == pytest.approx(np.mean([kl for _, kl in each]), abs=1e-9)
    assert found["hellinger"] == pytest.approx(np.sqrt(np.mean([h**2 for h, _ in each])), abs=1e-9)


def test_what_is_refused():
    with pytest.raises(SpecError, match="take both at the same"):
        hellinger(np.zeros(3), np.zeros(4), 1.0)
    with pytest.raises(SpecError, match="widen responses"):
        between(GaussianMoE(), one_expert(0.0, 7.0, 0.25), one_expert(0.0, 0.0, 0.25), Lattice())
