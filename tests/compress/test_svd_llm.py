"""Whitening by hand and against the other scalings; the closed-form update against least squares."""

import numpy as np
import pytest

from moejax.compress.activation_svd import ActivationSvd
from moejax.compress.statistics import from_rows
from moejax.compress.svd import Svd
from moejax.compress.svd_llm import SvdLlm
from tests.compress.kernel_data import case


def test_by_hand():
    # Rows (2, 0) and (0, 1): X W = diag(2, 1.5) for W = diag(1, 1.5), so what is dropped costs 1.5.
    x, kernel = np.diag([2.0, 1.0]), np.diag([1.0, 1.5])
    made = SvdLlm().factorise(kernel, from_rows(x))
    np.testing.assert_allclose(made.spectrum, [2, 1.5])
    cut = made.u[:, :1] @ made.v[:1]
    np.testing.assert_allclose(cut, np.diag([1.0, 0.0]), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(x @ (kernel - cut)), 1.5)


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_not_above_the_other_scalings(rank):
    data = case(8, 6)
    own = from_rows(data.x)

    def error(spec):
        made = spec.factorise(data.kernel, own)
        return np.linalg.norm(data.x @ (data.kernel - made.u[:, :rank] @ made.v[:rank]))

    assert error(SvdLlm()) <= min(error(Svd()), error(ActivationSvd()), error(ActivationSvd(alpha=1.0)))


@pytest.mark.parametrize("data", ["full", "deficient", "zero", "skewed"])
def test_the_update_is_least_squares_and_never_raises_the_loss(data):
    before, now = case(8, 6), case(8, 6, data=data, seed=9)
    made = SvdLlm().factorise(before.kernel, from_rows(before.x))
    for rank in (1, 3, 6):
        u, v = made.u[:, :rank], made.v[:rank]
        same, updated = SvdLlm().refit(before.kernel, (u, v), now.x.T @ now.x)
        assert same is u and np.all(np.isfinite(updated))
        losses = [np.linalg.norm(now.x @ (before.kernel - u @ w)) for w in (v, updated)]
        assert losses[1] <= losses[0]
        expected = np.linalg.lstsq(now.x @ u, now.x @ before.kernel, rcond=None)[0]
        least = np.linalg.norm(now.x @ (before.kernel - u @ expected))
        np.testing.assert_allclose(losses[1], least, rtol=1e-6, atol=1e-6 * np.linalg.norm(now.x @ before.kernel))
    if data == "zero":
        np.testing.assert_array_equal(updated, v)
