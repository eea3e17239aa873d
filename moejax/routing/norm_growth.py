"""How much every expert's router vector grew in fine-tuning, and the order in which experts are given up by it.

Source: Chowdhury et al. 2024 ("A provably effective method for pruning experts in fine-tuned sparse mixture-of-experts"), section 3:
    the experts whose router vectors grew least go first.
"""

import numpy as np
from jaxtyping import Float, Int


def norm_growth(
    before: Float[np.ndarray, "... D E"], after: Float[np.ndarray, "... D E"]
) -> Float[np.ndarray, "... E"]:
    """Length of every expert's column of a router kernel after fine-tuning minus before it; negative where it shrank."""
    return np.linalg.norm(after, axis=-2) - np.linalg.norm(before, axis=-2)


def pruning_order(growth: Float[np.ndarray, "... E"]) -> Int[np.ndarray, "... E"]:
    """Experts from the first to be given up to the last; of equals the first one goes first."""
    return np.argsort(growth, axis=-1, kind="stable")
