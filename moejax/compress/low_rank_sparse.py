"""A kernel as two thin factors and some whole columns, by alternation.

Source: LoSparse (Li et al. 2023), equation 3; the alternation is ours: each step is the best for what the other step left, so
    that the error never rises.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moejax.compress.leading_directions import leading_directions
from moejax.compress.low_rank_bank import low_rank_bank
from moejax.linear.low_rank import LowRank
from moejax.linear.low_rank_columns import LowRankColumns


@dataclasses.dataclass(frozen=True)
class Fitted:
    """u [D R] v [R F], plus `columns` [D kept] added at `positions` [kept]."""

    u: np.ndarray
    v: np.ndarray
    columns: np.ndarray
    positions: np.ndarray

    def dense(self) -> Float[np.ndarray, "D F"]:
        """What it stands for."""
        kernel = self.u @ self.v
        kernel[:, self.positions] += self.columns
        return kernel


def fit_low_rank_columns(kernel: Float[np.ndarray, "D F"], rank: int, num_columns: int, rounds: int) -> Fitted:
    """The columns that the factors describe worst are taken out, the factors are fitted to the others, `rounds` times.

    What is taken out is exact. Begun twice, with the kernel's best factors and with none, which finds columns so large
    that the best factors describe nothing else; the better is returned.
    """
    best = _best(kernel, rank)
    if not num_columns:
        return Fitted(*best, np.zeros((len(kernel), 0)), np.arange(0))
    nothing = np.zeros((len(kernel), 0)), np.zeros((0, kernel.shape[1]))
    found = [_alternate(kernel, start, rank, num_columns, rounds) for start in (best, nothing)]
    return min(found, key=lambda fitted: float(np.sum((kernel - fitted.dense()) ** 2)))


def _alternate(
    kernel: Float[np.ndarray, "D F"], start: tuple[np.ndarray, np.ndarray], rank: int, num_columns: int, rounds: int
) -> Fitted:
    u, v = start
    positions = np.arange(0)
    for _ in range(rounds):
        missed = np.sum((kernel - u @ v) ** 2, axis=0)
        found = np.sort(np.argsort(-missed, kind="stable")[:num_columns])
        if np.array_equal(found, positions):
            break
        positions = found
        others = kernel.copy()
        others[:, positions] = 0.0
        u, v = _best(others, rank)
    return Fitted(u, v, kernel[:, positions] - u @ v[:, positions], positions)


def stacked_leaf(fitted: list[Fitted], dtype: Any) -> LowRank | LowRankColumns:
    """A bank of kernels with equally many columns each; ranks may differ."""
    low = low_rank_bank([(one.u, one.v) for one in fitted], dtype)
    if not fitted[0].positions.size:
        return low
    columns = jnp.asarray(np.stack([one.columns for one in fitted]).astype(dtype))
    positions = tuple(tuple(one.positions.tolist()) for one in fitted)
    return LowRankColumns(low.u, low.v, columns, positions, low.ranks)


def _best(kernel: Float[np.ndarray, "D F"], rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The best factors of a rank, by the directions of the smaller side."""
    if kernel.shape[0] > kernel.shape[1]:
        v, u = _best(kernel.T, rank)
        return u.T, v.T
    basis = leading_directions(lambda: [kernel], rank)
    return basis, basis.T @ kernel
