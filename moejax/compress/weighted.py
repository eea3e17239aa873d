"""The best kernel of every rank in a weighted norm: the one piece behind all methods that end in a decomposition.

The norm is ||A||^2 = trace(A^T L A R), L [D D] on the side of the inputs and R [F F] on that of the outputs, both symmetric
and positive semi-definite; [D] or [F] stands for a diagonal, None for the identity. With L = B^T B and R = C^T C the best
kernel of rank r belongs to the r largest singular triples of M = B W C^T = P diag(s) Q^T, and its error is the tail of s:

    W_r = (W C^T Q_r) diag(1 / s_r) (P_r^T B W)

No weight is ever inverted: where L is the only one this is W Q_r Q_r^T, with R alone P_r P_r^T W. So singular, nearly
singular and zero weights need no care. What they do not see costs nothing in the norm; it comes after everything that they
do see, best in the plain norm, and W minus the first n components always has rank(W) - n (Wedderburn), so that the whole
gives W back.
Source: Eckart and Young 1936; Wedderburn 1934, "Lectures on Matrices", page 69 (rank reduction).
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float

from moejax.compress.contract import Factorisation

# Smaller side of a kernel up to which singular values are computed as such. Beyond it they are the roots of the eigenvalues
# of a Gram matrix: a quarter of the time and memory, and values below 1e-6 of the largest count as zero.
EXACT_UP_TO = 1024
_GRAM_TOLERANCE = 1e-6

Weight = Float[np.ndarray, "..."] | None  # [D D], a diagonal [D], or None for the identity
_Parts = tuple[np.ndarray, np.ndarray, np.ndarray, float]  # u, v, spectrum, rest


def factorise(
    kernel: Float[np.ndarray, "D F"],
    *,
    left: Weight = None,
    right: Weight = None,
    largest_rank: int | None = None,
    exact_up_to: int = EXACT_UP_TO,
) -> Factorisation:
    """The factors of every rank up to `largest_rank` (None, or more than there are: all), in float64.

    Memory: kernels of at most `exact_up_to` on their smaller side n about 8 (4 D F + 3 n^2) bytes; larger ones
    8 (3 D F + 4 n^2), and a weight on the larger side is only multiplied with.
    """
    size = min(kernel.shape)
    limit = size if largest_rank is None else max(0, min(largest_rank, size))
    if size <= exact_up_to:
        u, v, spectrum, rest = _exact(kernel, left, right, limit)
    elif kernel.shape[0] <= kernel.shape[1]:
        u, v, spectrum, rest = _by_gram(kernel, left, right, limit)
    else:
        v, u, spectrum, rest = _by_gram(kernel.T, right, left, limit)
        u, v = u.T, v.T
    if len(spectrum) < limit and (left is not None or right is not None):
        more = factorise(kernel - u @ v, largest_rank=limit - len(spectrum), exact_up_to=exact_up_to)
        u, v = np.concatenate([u, more.u], 1), np.concatenate([v, more.v], 0)
        spectrum = np.concatenate([spectrum, np.zeros_like(more.spectrum)])
    return Factorisation(*balance(u, v), spectrum, rest)


def distance(
    kernel: Float[np.ndarray, "D F"],
    approximation: Float[np.ndarray, "D F"],
    *,
    left: Weight = None,
    right: Weight = None,
    exact_up_to: int = EXACT_UP_TO,
) -> float:
    """The weighted norm of the difference: through the weights' roots, of kernels larger than `exact_up_to` without."""
    delta = kernel - approximation
    if min(delta.shape) <= exact_up_to and max(delta.shape) <= 4 * exact_up_to:
        return float(np.linalg.norm(_times_root(_root_times(left, delta), right)))
    return float(np.sqrt(max(np.vdot(_weight_times(left, delta), _weight_times(right, delta.T).T), 0.0)))


def balance(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same product, each column of u as long as its row of v: what half precision and further training like best."""
    long_u, long_v = np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=1)
    both = (long_u > 0) & (long_v > 0)
    scale = np.sqrt(np.divide(long_v, long_u, out=np.ones_like(long_u), where=both))
    return u * scale, v / scale[:, None]


def root(weight: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """B with B^T B = weight: [n D] with a row per eigenvalue that is not zero to rounding, or a diagonal [D].

    Negative eigenvalues, which sums in low precision may bring, count as zero.
    """
    if weight.ndim == 1:
        return np.sqrt(np.maximum(weight, 0.0))
    values, vectors = np.linalg.eigh((weight + weight.T) / 2)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    return np.sqrt(values[kept])[:, None] * vectors[:, kept].T


def _exact(kernel: np.ndarray, left: Weight, right: Weight, limit: int) -> _Parts:
    once = _root_times(left, kernel)
    p, spectrum, q = np.linalg.svd(_times_root(once, right), full_matrices=False)
    largest = spectrum[0] if len(spectrum) else 0.0
    seen = int(np.count_nonzero(spectrum > max(kernel.shape) * np.finfo(np.float64).eps * largest))
    rest = float(np.sum(spectrum[limit:] ** 2))
    kept = min(seen, limit)
    p, spectrum, q = p[:, :kept], spectrum[:kept], q[:kept]
    if right is None:
        return kernel @ q.T, q, spectrum, rest
    if left is None:
        return p, p.T @ kernel, spectrum, rest
    return _times_root(kernel, right) @ q.T, (p.T @ once) / spectrum[:, None], spectrum, rest


def _by_gram(kernel: np.ndarray, left: Weight, right: Weight, limit: int) -> _Parts:
    """For D <= F: P and s^2 are the eigenvectors and -values of B W R W^T B^T, where R needs no root."""
    once = _root_times(left, kernel)
    gram = once @ _weight_times(right, once.T)
    total, size = float(np.trace(gram)), len(gram)
    if not size:  # a weight of zeros
        return kernel[:, :0], kernel[:0], np.zeros(0), 0.0
    wanted = (max(size - max(limit, 1), 0), size - 1)
    values, p = scipy.linalg.eigh(gram, overwrite_a=True, check_finite=False, driver="evr", subset_by_index=wanted)
    spectrum = np.sqrt(np.maximum(values[::-1], 0.0))
    rest = max(total - float(np.sum(spectrum[:limit] ** 2)), 0.0) if limit < size else 0.0
    kept = min(int(np.count_nonzero(spectrum > _GRAM_TOLERANCE * spectrum[0])), limit)
    spectrum, p = spectrum[:kept], p[:, ::-1][:, :kept]
    v = (p.T @ once) / spectrum[:, None]
    if left is None:
        return p * spectrum, v, spectrum, rest
    return kernel @ _weight_times(right, v.T), v, spectrum, rest


def _root_times(weight: Weight, x: np.ndarray) -> np.ndarray:
    if weight is None:
        return x
    half = root(weight)
    return half[:, None] * x if half.ndim == 1 else half @ x


def _times_root(x: np.ndarray, weight: Weight) -> np.ndarray:
    return _root_times(weight, x.T).T


def _weight_times(weight: Weight, x: np.ndarray) -> np.ndarray:
    if weight is None:
        return x
    return np.maximum(weight, 0.0)[:, None] * x if weight.ndim == 1 else weight @ x
