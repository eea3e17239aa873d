"""The leading left singular vectors of several matrices side by side, in memory for one of them.

Source: Gram matrix and eigenvectors up to a size; beyond it Halko, Martinsson and Tropp 2011, algorithm 4.4 (randomised subspace
    iteration), whose basis is nearly as good and takes products only, all but the last in float32. Orthonormal columns by two
    Cholesky decompositions (Fukaya et al. 2014, "CholeskyQR2"): products, where Householder's way takes forty times as long.
"""

from collections.abc import Callable, Iterable

import numpy as np
import scipy.linalg
from jaxtyping import Float

EXACT_UP_TO = 2048
PASSES = 3
NEARLY_DEPENDENT = 1e-6  # part of a column that is new, relative to the longest one's
MORE = 16  # directions that are looked at beside those wanted


def leading_directions(
    matrices: Callable[[], Iterable[np.ndarray]], rank: int, *, exact_up_to: int = EXACT_UP_TO
) -> Float[np.ndarray, "D R"]:
    """Orthonormal, strongest first, also where the matrices [D ...] have fewer directions. matrices: gives them anew each time."""
    depth = next(iter(matrices())).shape[0]
    if depth <= exact_up_to:
        gram = np.zeros((depth, depth))
        for matrix in matrices():
            gram += matrix @ matrix.T
        return np.linalg.eigh(gram)[1][:, ::-1][:, :rank]
    basis = np.random.default_rng(0).standard_normal((depth, min(rank + MORE, depth)), np.float32)
    for number in range(PASSES):
        basis = orthonormal(basis).astype(np.float32 if number < PASSES - 1 else np.float64)
        image = np.zeros_like(basis)
        for matrix in matrices():
            narrow = matrix.astype(basis.dtype, copy=False)
            image += narrow @ (narrow.T @ basis)
        small = basis.T @ image
        basis = image
    rotation = np.linalg.eigh((small + small.T) / 2)[1][:, ::-1]
    return orthonormal(basis @ rotation)[:, :rank]


def orthonormal(columns: Float[np.ndarray, "D R"]) -> Float[np.ndarray, "D R"]:
    """Orthonormal columns in float64, the first n of which span the first n given ones, for every n.

    Householder's way where the given ones are dependent or nearly so, which Cholesky's cannot do.
    """
    found = columns.astype(np.float64)
    for _ in range(2):
        try:
            lower = np.linalg.cholesky(found.T @ found)
        except np.linalg.LinAlgError:
            return np.linalg.qr(columns.astype(np.float64))[0]
        diagonal = np.diagonal(lower)
        if not diagonal.min() > NEARLY_DEPENDENT * diagonal.max():
            return np.linalg.qr(columns.astype(np.float64))[0]
        found = scipy.linalg.solve_triangular(lower, found.T, lower=True, overwrite_b=True).T
    return found
