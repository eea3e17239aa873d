"""Fisher rows: by hand, against the plain decomposition, and on a trained classifier."""

import numpy as np
import pytest

from moejax.compress.fwsvd import Fwsvd
from moejax.compress.statistics import LeafStatistics
from moejax.compress.svd import Svd
from moejax.core.errors import SpecError


def fisher(rows, examples=1.0):
    return LeafStatistics(examples=np.float64(examples), fisher_rows=np.asarray(rows, np.float64))


def test_by_hand():
    kernel = np.diag([1.0, 2.0])
    made = Fwsvd().factorise(kernel, fisher([18.0, 2.0], examples=2))  # D = diag(3, 1): D W = diag(3, 2)
    np.testing.assert_allclose(made.spectrum, [3, 2])
    np.testing.assert_allclose(made.u[:, :1] @ made.v[:1], np.diag([1.0, 0.0]), atol=1e-12)


def test_equal_rows_are_the_plain_decomposition():
    kernel = np.random.default_rng(0).normal(size=(5, 7))
    own, plain = Fwsvd().factorise(kernel, fisher(np.ones(5))), Svd().factorise(kernel, None)
    for rank in range(6):
        np.testing.assert_allclose(own.u[:, :rank] @ own.v[:rank], plain.u[:, :rank] @ plain.v[:rank], atol=1e-12)


def test_negative_rows():
    with pytest.raises(SpecError, match="negative"):
        Fwsvd().factorise(np.eye(2), fisher([1.0, -1.0]))


def test_a_trained_classifier(capsys):
    """Softmax regression on inputs of very different relevance; both losses are told, whichever is lower."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 12)) * np.geomspace(3, 0.1, 12)
    labels = np.argmax(x @ draw.normal(size=(12, 6)) + draw.gumbel(size=(400, 6)), axis=1)
    kernel = np.zeros((12, 6))

    def residual(w):
        logits = x @ w
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return p - np.eye(6)[labels], -np.mean(np.log(p[np.arange(400), labels]))

    for _ in range(500):
        kernel -= 0.3 * x.T @ residual(kernel)[0] / 400
    errors, trained = residual(kernel)
    own = fisher(np.sum((x[:, :, None] * errors[:, None, :]) ** 2, (0, 2)), 400)
    losses = {}
    for name, made in (("svd", Svd().factorise(kernel, None)), ("fwsvd", Fwsvd().factorise(kernel, own))):
        losses[name] = residual(made.u[:, :2] @ made.v[:2])[1]
        assert trained < losses[name] < np.log(6)
    print("loss trained", trained, "at rank 2", losses)
    assert "fwsvd" in capsys.readouterr().out
