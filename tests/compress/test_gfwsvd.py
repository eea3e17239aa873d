"""Kronecker Fisher: exact where the Fisher is a Kronecker product, FWSVD where the factors are diagonal."""

import numpy as np

from moejax.compress.fwsvd import Fwsvd
from moejax.compress.gfwsvd import Gfwsvd
from moejax.compress.statistics import LeafStatistics

D, F = 4, 5


def roots(seed, *, diagonal=False):
    draw = np.random.default_rng(seed)
    if diagonal:
        return np.diag(draw.uniform(0.5, 2, D)), np.eye(F)
    return draw.normal(size=(D, D)), draw.normal(size=(F, F))


def gradients(a, b):
    """One example per pair of columns: the sum of vec(G) vec(G)^T is the Kronecker product of b b^T and a a^T."""
    return np.stack([np.outer(i, j) for i in a.T for j in b.T])


def statistics(g):
    first = LeafStatistics(
        examples=np.float64(len(g)),
        fisher_rows=(g**2).sum((0, 2)),
        kronecker_in=np.einsum("nij,nkj->ik", g, g),
        kronecker_out=np.einsum("nij,nik->jk", g, g),
    )
    return first.replace(
        kronecker_in=np.einsum("nij,jk,nlk->il", g, first.kronecker_out, g),
        kronecker_out=np.einsum("nij,ik,nkl->jl", g, first.kronecker_in, g),
    )


def test_minimises_the_quadratic_form_of_the_fisher():
    a, b = roots(0)
    g = gradients(a, b)
    vectors = g.transpose(0, 2, 1).reshape(len(g), -1)  # columns of G one below the other
    full = vectors.T @ vectors
    np.testing.assert_allclose(full, np.kron(b @ b.T, a @ a.T))
    own, kernel = statistics(g), np.random.default_rng(1).normal(size=(D, F))

    def quadratic(approximation):
        delta = (kernel - approximation).T.reshape(-1)
        return delta @ full @ delta

    made, other = Gfwsvd().factorise(kernel, own), Fwsvd().factorise(kernel, own)
    draw = np.random.default_rng(2)
    for rank in (1, 2, 3):
        best = quadratic(made.u[:, :rank] @ made.v[:rank])
        assert best <= quadratic(other.u[:, :rank] @ other.v[:rank]) * (1 + 1e-9)
        assert best < quadratic(other.u[:, :rank] @ other.v[:rank]) * 0.99  # here the rows alone are not enough
        for _ in range(200):
            u = made.u[:, :rank] + 0.1 * draw.normal(size=(D, rank))
            # the best partner of a random left factor, by least squares in the same form
            design = np.einsum("dr,fg->dfrg", u, np.eye(F)).transpose(1, 0, 2, 3).reshape(D * F, -1)
            half = np.linalg.cholesky(full).T
            v = np.linalg.lstsq(half @ design, half @ kernel.T.reshape(-1), rcond=None)[0].reshape(rank, F)
            assert best <= quadratic(u @ v) * (1 + 1e-9)


def test_diagonal_factors_are_fwsvd():
    own = statistics(gradients(*roots(3, diagonal=True)))
    kernel = np.random.default_rng(4).normal(size=(D, F))
    first, second = Gfwsvd().factorise(kernel, own), Fwsvd().factorise(kernel, own)
    for rank in range(D + 1):
        np.testing.assert_allclose(first.u[:, :rank] @ first.v[:rank], second.u[:, :rank] @ second.v[:rank], atol=1e-9)
