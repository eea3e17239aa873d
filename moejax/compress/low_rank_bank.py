"""Factors of several ranks as one leaf.

Source: ours.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from moejax.linear.low_rank import LowRank


def low_rank_bank(factors: Sequence[tuple[np.ndarray, np.ndarray]], dtype: Any) -> LowRank:
    """The bank of u [D r], v [r F] per expert in `dtype`; ranks are padded with zeros to the largest, which is at least 1."""
    ranks = tuple(u.shape[1] for u, _ in factors)
    width = max(*ranks, 1)  # arrays of rank zero have no product
    us = np.zeros((len(factors), factors[0][0].shape[0], width), dtype)
    vs = np.zeros((len(factors), width, factors[0][1].shape[1]), dtype)
    for i, ((u, v), rank) in enumerate(zip(factors, ranks, strict=True)):
        us[i, :, :rank], vs[i, :rank] = u.astype(dtype), v.astype(dtype)
    return LowRank(jnp.asarray(us), jnp.asarray(vs), None if set(ranks) == {width} else ranks)
