"""Random projections: exact on low rank, near the optimum elsewhere, nearer with more iterations."""

import numpy as np
import pytest

from moejax.compress.randomised_svd import RandomisedSvd
from moejax.compress.svd import Svd
from moejax.core.errors import SpecError


def decaying(seed=0, depth=60, width=50):
    draw = np.random.default_rng(seed)
    p, q = (np.linalg.qr(draw.normal(size=(size, width)))[0] for size in (depth, width))
    return p * (1 / np.arange(1, width + 1)) @ q.T


def test_low_rank_is_found_exactly():
    draw = np.random.default_rng(0)
    kernel = draw.normal(size=(40, 3)) @ draw.normal(size=(3, 30))
    made = RandomisedSvd(oversampling=2, power_iterations=0).factorise(kernel, None, largest_rank=3)
    np.testing.assert_allclose(made.u @ made.v, kernel, atol=1e-9)
    np.testing.assert_allclose(made.spectrum, np.linalg.svd(kernel)[1][:3])


def test_near_the_optimum():
    kernel, rank = decaying(), 8
    best = np.sqrt(Svd().factorise(kernel, None, largest_rank=rank).rest)
    errors = []
    for iterations in (0, 1, 3):
        spec = RandomisedSvd(oversampling=4, power_iterations=iterations)
        made = spec.factorise(kernel, None, largest_rank=rank)
        errors.append(np.linalg.norm(kernel - made.u @ made.v))
        np.testing.assert_allclose(np.sqrt(made.rest), errors[-1], rtol=1e-9)
    assert best <= errors[2] <= errors[1] <= errors[0]
    assert errors[2] < 1.002 * best


def test_the_seed_decides():
    kernel = decaying()
    first, again, other = (
        RandomisedSvd(oversampling=1, power_iterations=0, seed=seed).factorise(kernel, None, largest_rank=4).rest
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_bad_fields():
    with pytest.raises(SpecError, match="oversampling=-1"):
        RandomisedSvd(oversampling=-1)
