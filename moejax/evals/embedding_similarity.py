"""How alike the vectors of two encoders are: each text's own, and the order of all pairs of texts.

Source: cosines as in Reimers and Gurevych 2019, "Sentence-BERT", section 4; rank correlation of Spearman 1904.
"""

import numpy as np
from jaxtyping import Float
from scipy import stats

from moejax.core.errors import SpecError


def similarity(found: Float[np.ndarray, "M D"], original: Float[np.ndarray, "M D"]) -> dict[str, float]:
    """{'cosine', 'spearman'} of the vectors of M texts.

    cosine: mean over texts of the cosine between both vectors of a text. spearman: rank correlation, over all pairs of two
    texts, of the pair's cosine by one encoder with that by the other: what a search by similarity depends on.
    Raises SpecError for fewer than three texts.
    """
    if len(found) < 3:
        raise SpecError(f"{len(found)} texts make no ranking of pairs; give at least 3.")
    found, original = (_unit(np.asarray(a, np.float64)) for a in (found, original))
    pairs = np.triu_indices(len(found), 1)
    correlation = stats.spearmanr((found @ found.T)[pairs], (original @ original.T)[pairs]).statistic
    return {"cosine": float(np.sum(found * original, axis=1).mean()), "spearman": float(correlation)}


def _unit(vectors: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M D"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
