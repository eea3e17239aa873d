"""Maestro: factors trained with ordered dropout over their columns, so that every truncation of them is a good one.

Source: Horvath et al. 2024, "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition", section 3: W = U V^T; in
    each step b is drawn and the first b columns are trained; a hierarchical group lasso over the tails U[:, b:], V[:, b:]
    shrinks ranks to zero.
Deviations: each layer is fitted to the trained kernel on the whitened data, not trained with the whole network. Steps are
    gradient steps preconditioned by the Gram matrix of the other factor (scaled gradient descent), whose pace does not depend
    on the scales of the singular values; then, with a lasso, as many plain ones, each followed by the exact proximal map of
    the nested groups. After
    training, the right factor is orthonormalised in order, which keeps the span of its first b columns for every b, the left
    one is its least-squares partner, and columns are put in the order of what they explain.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from moejax.compress.contract import Factorisation
from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import balance, distance, factorise, root
from moejax.compress.weighted_method import field
from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maestro:
    """Nearly the least ||X (W - W_r)||_F at every rank, found by training; `spectrum` gives the error that it really has.

    steps: of training, each for one drawn b. step_size: 1 solves for one factor given the other. group_lasso: weight of the
    penalty, for a kernel of norm 1 on the data; 0 shrinks nothing. seed: of the first factors and of b.
    Raises SpecError for numbers outside their range.
    """

    needs: ClassVar[tuple[str, ...]] = ("second_moment",)

    steps: int = 300
    step_size: float = 0.8
    group_lasso: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.step_size <= 1 or self.group_lasso < 0:
            raise SpecError(
                f"steps={self.steps} must be at least 1, step_size={self.step_size} in (0, 1] and "
                f"group_lasso={self.group_lasso} not negative."
            )

    def factorise(
        self, kernel: Float[np.ndarray, "D F"], statistics: LeafStatistics | None, *, largest_rank: int | None = None
    ) -> Factorisation:
        """About 4 n^2 R FLOPs per step, n = min(D, F), R = largest_rank."""
        moment = field(statistics, "second_moment")
        size = min(kernel.shape)
        limit = size if largest_rank is None else min(largest_rank, size)
        half = root(moment)
        seen = half @ kernel
        scale = float(np.linalg.norm(seen))
        if scale == 0 or limit == 0:
            return factorise(kernel, left=moment, largest_rank=limit)
        outer, core = np.linalg.qr(seen.T)  # seen = core^T outer^T: training needs the small core only
        columns = min(limit, int(np.linalg.matrix_rank(core)))
        right = outer @ np.linalg.qr(self.train(core.T / scale, columns)[1].T)[0]
        unseen = kernel - kernel @ right @ right.T
        if limit > right.shape[1] and np.linalg.norm(unseen) > 1e-12 * np.linalg.norm(kernel):
            matters = np.linalg.norm(half @ unseen) > 1e-9 * scale
            more = factorise(unseen, left=moment if matters else None, largest_rank=limit - right.shape[1])
            right = np.linalg.qr(np.concatenate([right, more.v.T], 1))[0]
        v, spectrum = right.T, np.linalg.norm(seen @ right, axis=0)
        order = np.argsort(-spectrum, kind="stable")
        v, spectrum = v[order], spectrum[order]
        rest = max(scale**2 - float(np.sum(spectrum**2)), 0.0)
        return Factorisation(*balance(kernel @ v.T, v), spectrum, rest)

    def train(
        self, target: Float[np.ndarray, "D F"], columns: int
    ) -> tuple[Float[np.ndarray, "D R"], Float[np.ndarray, "R F"]]:
        """u, v of as many columns as survive, such that u[:, :b] v[:b] is near the target for every b."""
        draw = np.random.default_rng(self.seed)
        v = draw.standard_normal((columns, target.shape[1])) / np.sqrt(target.shape[1])
        u = np.zeros((target.shape[0], columns))
        for _ in range(self.steps):
            b = int(draw.integers(1, columns + 1))
            u[:, :b] += self.step_size * (target - u[:, :b] @ v[:b]) @ v[:b].T @ _inverse(v[:b] @ v[:b].T)
            v[:b] += self.step_size * _inverse(u[:, :b].T @ u[:, :b]) @ u[:, :b].T @ (target - u[:, :b] @ v[:b])
        if self.group_lasso:
            u, v = self._shrunk(target, *balance(u, v), draw)
        alive = (np.linalg.norm(u, axis=0) > 0) & (np.linalg.norm(v, axis=1) > 0)
        alive[0] = True
        return u[:, alive], v[alive]

    def _shrunk(
        self, target: np.ndarray, u: np.ndarray, v: np.ndarray, draw: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """As many proximal gradient steps, each as long as the curvature of its b allows, on u and v in turn."""
        for _ in range(self.steps):
            b = int(draw.integers(1, len(v) + 1))
            for _ in range(2):  # first u, then v as the left factor of the transposed target
                step = 1 / max(float(np.linalg.norm(v[:b], 2)) ** 2, 1e-6)
                u = u.copy()
                u[:, :b] += step * (target - u[:, :b] @ v[:b]) @ v[:b].T
                u *= shrinkage(np.linalg.norm(u, axis=0), step * self.group_lasso)
                target, u, v = target.T, v.T, u.T
        return u, v

    def error(
        self,
        kernel: Float[np.ndarray, "D F"],
        approximation: Float[np.ndarray, "D F"],
        statistics: LeafStatistics | None,
    ) -> float:
        """||X (W - W')||_F."""
        return distance(kernel, approximation, left=field(statistics, "second_moment"))


def shrinkage(norms: Float[np.ndarray, "R"], threshold: float) -> Float[np.ndarray, "R"]:
    """By what each column is multiplied in the proximal map of threshold * sum_b ||columns b, b + 1, ...||.

    Groups that lie within each other are shrunk from the smallest to the largest (Jenatton et al. 2011, proposition 1).
    """
    factors, tail = np.ones_like(norms), 0.0
    for b in range(len(norms) - 1, -1, -1):
        length = np.sqrt(norms[b] ** 2 + tail**2)
        factors[b] = max(0.0, 1 - threshold / length) if length > 0 else 0.0
        tail = factors[b] * length
    return np.cumprod(factors)


def _inverse(gram: Float[np.ndarray, "R R"]) -> Float[np.ndarray, "R R"]:
    """Of a matrix that may be singular, where a column has died."""
    return np.linalg.pinv(gram, rcond=1e-12, hermitian=True)


EXAMPLES = (Maestro(steps=60), Maestro(steps=40, step_size=0.5, group_lasso=1e-3, seed=1))
