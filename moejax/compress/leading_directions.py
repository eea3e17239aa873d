"""The leading left singular vectors of several matrices side by side, in memory for one of them.

Source: Gram matrix and eigenvectors up to a size; beyond it Halko, Martinsson and Tropp 2011, algorithm 4.4 (randomised subspace
    iteration), whose basis is nearly as good and takes products only, all but the last in float32.
"""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float

EXACT_UP_TO = 2048
PASSES = 3
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
        basis = np.linalg.qr(basis if number < PASSES - 1 else basis.astype(np.float64))[0]
        image = np.zeros_like(basis)
        for matrix in matrices():
            narrow = matrix.astype(basis.dtype, copy=False)
            image += narrow @ (narrow.T @ basis)
        small = basis.T @ image
        basis = image
    rotation = np.linalg.eigh((small + small.T) / 2)[1][:, ::-1]
    return np.linalg.qr(basis @ rotation)[0][:, :rank]
