"""Trained factors recover the singular order on whitened data and principal components as an autoencoder."""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from moejax.compress.maestro import Maestro, shrinkage
from moejax.compress.statistics import from_rows
from moejax.core.errors import SpecError


def spectrum_of(values, depth, width, seed=0):
    draw = np.random.default_rng(seed)
    p, q = (np.linalg.qr(draw.normal(size=(size, len(values))))[0] for size in (depth, width))
    return p * values @ q.T, q


def test_whitened_data_recover_the_singular_order():
    kernel, right = spectrum_of(np.array([8.0, 5.0, 3.0, 2.0, 1.0]), 7, 6)
    u, v = Maestro(steps=400).train(kernel / np.linalg.norm(kernel), 5)
    for b in range(1, 6):  # what training alone gives, for every truncation
        assert np.max(scipy.linalg.subspace_angles(v[:b].T, right[:, :b])) < 1e-2
        p, s, q = np.linalg.svd(kernel / np.linalg.norm(kernel))
        np.testing.assert_allclose(u[:, :b] @ v[:b], p[:, :b] * s[:b] @ q[:b], atol=1e-2)


def test_a_linear_autoencoder_recovers_the_principal_components():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(500, 6)) * [4, 2.5, 1.6, 1, 0.6, 0.3] @ np.linalg.qr(draw.normal(size=(6, 6)))[0]
    made = Maestro(steps=400).factorise(np.eye(6), from_rows(x))
    axes = np.linalg.svd(x, full_matrices=False)[2]
    for b in range(1, 6):
        assert np.max(scipy.linalg.subspace_angles(made.v[:b].T, axes[:b].T)) < 1e-2
        error = np.linalg.norm(x - x @ made.u[:, :b] @ made.v[:b])
        np.testing.assert_allclose(error, np.linalg.norm(np.linalg.svd(x)[1][b:]), rtol=1e-3)


def test_the_lasso_shrinks_ranks():
    kernel, _ = spectrum_of(np.array([5.0, 4.0, 0.02, 0.01]), 8, 8)
    target = kernel / np.linalg.norm(kernel)
    free, shrunk = (Maestro(steps=200, group_lasso=weight).train(target, 6)[1] for weight in (0.0, 0.01))
    assert len(free) == 6
    assert len(shrunk) == 2


def test_shrinkage_is_the_proximal_map():
    norms, threshold = np.array([2.0, 1.0, 0.7]), 0.4

    def objective(x):
        return 0.5 * np.sum((x - norms) ** 2) + threshold * sum(np.linalg.norm(x[b:]) for b in range(3))

    best = scipy.optimize.minimize(objective, norms, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    np.testing.assert_allclose(norms * shrinkage(norms, threshold), best.x, atol=1e-5)
    assert shrinkage(np.array([0.0, 0.1]), 1.0).tolist() == [0, 0]


def test_bad_fields():
    with pytest.raises(SpecError, match="step_size=2"):
        Maestro(step_size=2.0)
