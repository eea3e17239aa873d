"""Which experts do the same: cosines of their outputs on the same rows, and K-means on them.

Source: Sub-MoE, adaptive expert clustering; K-means on the sphere: Dhillon and Modha 2001, section 3.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moejax.core.layouts import Buffers
from moejax.linear.epilogue import activate

ROWS_AT_ONCE = 256  # of which the outputs of all experts are in memory
ROUNDS = 100


def output_cosines(
    bank: dict[str, Any], rows: Float[np.ndarray, "M D"], activation: str | None
) -> Float[np.ndarray, "E E"]:
    """Cosine of the outputs of each two experts, taken over all rows and output entries together; zero for zero outputs."""
    products: Any = 0.0
    for start in range(0, len(rows), ROWS_AT_ONCE):
        outputs = _outputs(bank, rows[start : start + ROWS_AT_ONCE], activation)
        flat = outputs.reshape(len(outputs), -1)
        products = products + flat @ flat.T
    length = np.sqrt(np.diagonal(products))
    inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return products * inverse[:, None] * inverse[None, :]


def _outputs(
    bank: dict[str, Any], rows: Float[np.ndarray, "M D"], activation: str | None
) -> Float[np.ndarray, "E M D"]:
    experts = bank["up"].materialise().shape[0]
    tokens = jnp.asarray(rows, jnp.float32)
    x = Buffers(jnp.broadcast_to(tokens, (experts, *tokens.shape)))
    up = bank["up"].grouped_matmul(x, bias=bank.get("up_bias")).tokens
    if "gate" in bank:
        gate = bank["gate"].grouped_matmul(x, bias=bank.get("gate_bias")).tokens
        hidden = activate(gate, activation or "silu") * up
    else:
        hidden = activate(up, activation or "gelu")
    out = bank["down"].grouped_matmul(Buffers(hidden), bias=bank.get("down_bias")).tokens
    return np.asarray(out, np.float64)


def cluster(cosines: Float[np.ndarray, "E E"], num_clusters: int, *, first: int) -> tuple[int, ...]:
    """The cluster of each expert, none empty, numbered as experts meet them.

    Starts from expert `first` and then always the one farthest from those chosen; an emptied cluster takes the expert that
    fits its own worst.
    """
    points = _points(cosines)
    seeds = [first]
    while len(seeds) < num_clusters:
        nearest = (points @ points[seeds].T).max(1)
        nearest[seeds] = np.inf
        seeds.append(int(np.argmin(nearest)))
    centres = points[seeds]
    labels = np.full(len(points), -1)
    for _ in range(ROUNDS):
        found = _filled(points @ centres.T, seeds if labels[0] < 0 else None)
        if np.array_equal(found, labels):
            break
        labels = found
        sums = np.stack([points[labels == group].sum(0) for group in range(num_clusters)])
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.divide(sums, length, out=np.zeros_like(sums), where=length > 0)
    order = list(dict.fromkeys(labels.tolist()))
    return tuple(order.index(label) for label in labels.tolist())


def _points(cosines: Float[np.ndarray, "E E"]) -> Float[np.ndarray, "E E"]:
    """Points whose products are the cosines."""
    values, vectors = np.linalg.eigh(cosines)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _filled(fit: np.ndarray, seeds: list[int] | None) -> np.ndarray:
    """The best cluster of each expert by `fit` [experts clusters]; seeds stay with their own, and no cluster stays empty."""
    labels = np.argmax(fit, axis=1)
    if seeds is not None:
        labels[seeds] = np.arange(len(seeds))
    for group in range(fit.shape[1]):
        if not np.any(labels == group):
            own = fit[np.arange(len(labels)), labels].copy()
            own[np.bincount(labels, minlength=fit.shape[1])[labels] == 1] = np.inf
            labels[np.argmin(own)] = group
    return labels
