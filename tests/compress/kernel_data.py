"""Kernels with calibration data and gradients, and their statistics in plain NumPy: the oracle of the tests beside it."""

import dataclasses

import numpy as np

from moejax.compress.statistics import LeafStatistics


@dataclasses.dataclass(frozen=True)
class Case:
    """kernel [D F], inputs [N D], gradients [N D F], one per example."""

    kernel: np.ndarray
    x: np.ndarray
    gradients: np.ndarray

    @property
    def statistics(self) -> LeafStatistics:
        g = self.gradients
        return LeafStatistics(
            count=np.float64(np.any(self.x != 0, axis=1).sum()),
            second_moment=self.x.T @ self.x,
            absolute=np.abs(self.x).sum(0),
            rows=self.x,
            examples=np.float64(len(g)),
            fisher=(g**2).sum(0),
            fisher_rows=(g**2).sum((0, 2)),
            kronecker_in=np.einsum("nij,nkj->ik", g, g),
            kronecker_out=np.einsum("nij,nik->jk", g, g),
        )


def case(depth, width, *, data="full", seed=0) -> Case:
    """data: 'full'; 'deficient': all rows lie in three directions; 'zero'; 'skewed': a second moment of condition 1e8."""
    draw = np.random.default_rng(seed)
    kernel = draw.normal(size=(depth, width))
    x = draw.normal(size=(40, depth)) @ draw.normal(size=(depth, depth))
    gradients = draw.normal(size=(6, depth, 1)) * draw.normal(size=(6, 1, width)) + 0.1 * draw.normal(
        size=(6, depth, width)
    )
    if data == "zero":
        return Case(kernel, 0 * x, 0 * gradients)
    if data == "deficient":
        few = draw.normal(size=(3, depth))
        x = draw.normal(size=(40, 3)) @ few
        gradients = np.einsum("nif,id->ndf", draw.normal(size=(6, 3, width)), few)
    if data == "skewed":
        u, _, v = np.linalg.svd(x, full_matrices=False)
        x = u * np.geomspace(1, 1e-4, depth) @ v
        gradients = gradients * np.geomspace(1, 1e-4, depth)[None, :, None]
    return Case(kernel, x, gradients)


def own_norm(name, spec, case, delta) -> float:
    """The norm in which a method is optimal, from the data themselves."""
    if name in ("svd", "randomised_svd"):
        return np.linalg.norm(delta)
    if name in ("svd_llm", "dobi", "maestro"):
        return np.linalg.norm(case.x @ delta)
    if name == "activation_svd":
        return np.linalg.norm(np.mean(np.abs(case.x), 0)[:, None] ** spec.alpha * delta)
    if name == "lorap":
        return np.linalg.norm(np.linalg.norm(case.x, axis=0)[:, None] * delta)
    if name == "fwsvd":
        return np.sqrt(np.mean(np.sum(case.gradients**2, 2), 0) @ np.sum(delta**2, 1))
    if name == "gfwsvd":
        own = case.statistics
        return np.sqrt(max(np.einsum("df,de,eg,gf->", delta, own.kronecker_in, delta, own.kronecker_out), 0.0))
    raise KeyError(name)


def direct_optimum(kernel, rank):
    """The plain truncated decomposition."""
    p, s, q = np.linalg.svd(kernel, full_matrices=False)
    return p[:, :rank] * s[:rank] @ q[:rank]
