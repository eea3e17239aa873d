"""Which variables belong together: partitions of the responses that a covariance matrix suggests, from one block to single variables.

Variables whose correlation exceeds a threshold share a block, and so do those that a chain of such pairs joins. As the threshold rises
blocks part, at most as many times as there are variables but one, so that a collection of partitions stays small whatever the dimension.
Source: Devijver and Gallopin 2018 ("Block-diagonal covariance selection for high-dimensional Gaussian graphical models"), section 2.2;
    Nguyen et al. 2021 ("A non-asymptotic model selection in block-diagonal mixture of polynomial experts models"), whose random
    subcollection these are.
Deviations: correlations are compared with the threshold, where Devijver and Gallopin have covariances of standardised data: the same for
    one expert. All experts share the threshold, not the partition.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components


def partition(covariance: Float[np.ndarray, "_ _"], threshold: float) -> Int[np.ndarray, "_"]:
    """The block of every variable, numbered in the order of their first variables."""
    spread = np.sqrt(np.diag(covariance))
    joined = np.abs(covariance / np.outer(spread, spread)) > threshold
    return numbered(connected_components(joined, directed=False)[1])


def numbered(blocks: Int[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
    """The same partition, its blocks numbered 0, 1, ... in the order of their first variables."""
    _, first, inverse = np.unique(blocks, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def partitions(covariances: Float[np.ndarray, "E _ _"]) -> Int[np.ndarray, "_ E _"]:
    """All that differ as one threshold for all experts rises from 0 to 1, the coarsest first: 1 to E (Q - 1) + 1 of them."""
    spread = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    sizes = np.abs(covariances / (spread[:, :, None] * spread[:, None, :]))
    rows, columns = np.triu_indices(covariances.shape[1], k=1)
    found = [np.zeros(covariances.shape[:2], int)]
    for threshold in np.unique(sizes[:, rows, columns]):
        blocks = np.stack([partition(one, float(threshold)) for one in covariances])
        if not np.array_equal(blocks, found[-1]):
            found.append(blocks)
    return np.stack(found)


def together(blocks: Int[np.ndarray, "... _"]) -> Float[np.ndarray, "... _ _"]:
    """1 where two variables share a block, else 0."""
    return (blocks[..., :, None] == blocks[..., None, :]).astype(np.float64)


def num_covariances(blocks: Int[np.ndarray, "... _"]) -> int:
    """Free numbers of covariance matrices with these blocks, all of them: pairs that share a block, and variances."""
    return int(together(blocks).sum() + blocks.size) // 2
