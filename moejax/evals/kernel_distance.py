"""Kernel distance between two sets of features: the squared maximum mean discrepancy of a cubic kernel, unbiased."""

import dataclasses

import numpy as np
from jaxtyping import Float

from moejax.core.errors import SpecError
from moejax.evals.frechet import check_features


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """value: mean over disjoint blocks, may be negative. standard_error: of that mean; None with a single block."""

    value: float
    standard_error: float | None
    num_blocks: int
    block_size: int


def kernel_distance(
    samples: Float[np.ndarray, "M D"],
    reference: Float[np.ndarray, "M2 D2"],
    *,
    scale: float = 1.0,
    max_block_size: int = 1000,
    min_blocks: int = 10,
    seed: int = 0,
) -> KernelDistance:
    """Kernel distance of features multiplied by `scale`; its expectation is 0 when both sides have one distribution.

    Both sides are shuffled and cut into disjoint blocks of one size: `max_block_size`, or less so that there are
    `min_blocks` blocks (of at least two rows), whose estimates are independent. Raises SpecError for fewer than two rows
    on a side, for different dimensions, and for NaN or infinite features.
    Source: Bińkowski et al. 2018, "Demystifying MMD GANs", section 4 (the kernel (x.y / D + 1)^3) and Gretton et al. 2012,
        "A Kernel Two-Sample Test", lemma 6 (the unbiased estimate).
    Deviations: disjoint blocks, not subsets that overlap, so that the standard error is one.
    """
    check_features(samples)
    check_features(reference)
    count = min(len(samples), len(reference))
    if count < 2:
        raise SpecError(f"a kernel distance needs 2 rows on each side, not {len(samples)} and {len(reference)}.")
    if samples.shape[1] != reference.shape[1]:
        raise SpecError(f"features of {samples.shape[1]} and {reference.shape[1]} dimensions cannot be compared.")
    size = max(2, min(max_block_size, count // min_blocks))
    rng = np.random.default_rng(seed)
    left, right = (_blocks(rng, side, size, scale) for side in (samples, reference))
    estimates = np.array([unbiased_mmd(x, y) for x, y in zip(left, right, strict=False)])
    error = float(estimates.std(ddof=1) / np.sqrt(len(estimates))) if len(estimates) > 1 else None
    return KernelDistance(float(estimates.mean()), error, len(estimates), size)


def unbiased_mmd(x: Float[np.ndarray, "M D"], y: Float[np.ndarray, "M2 D"]) -> float:
    """Mean of k over pairs of different rows of x, plus that of y, less twice the mean over pairs across."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    def off_diagonal(a: np.ndarray) -> float:
        table = kernel(a, a)
        return float((table.sum() - np.trace(table)) / (len(a) * (len(a) - 1)))

    return off_diagonal(x) + off_diagonal(y) - 2.0 * float(kernel(x, y).mean())


def unit_scale(reference: Float[np.ndarray, "M D"]) -> float:
    """1 / root mean square of all entries: multiplied by it, features of any extractor have x.x / D near 1.

    The cubic kernel is no function of direction alone, so the distance depends on the unit of the features.
    Source: ours; published figures on Inception features use scale 1.
    """
    return float(1.0 / np.sqrt(np.maximum(np.mean(np.square(reference, dtype=np.float64)), 1e-30)))


def _blocks(rng: np.random.Generator, rows: np.ndarray, size: int, scale: float) -> np.ndarray:
    order = rng.permutation(len(rows))[: len(rows) // size * size]
    return rows[order].astype(np.float64).reshape(-1, size, rows.shape[1]) * scale
