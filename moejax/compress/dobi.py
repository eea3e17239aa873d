"""Dobi-SVD: ranks learned by gradient through a soft truncation, on the principal axes of what the layer puts out.

Source: Wang et al. 2025, "Dobi-SVD: Differentiable SVD for LLM Compression and Some New Perspectives": the gate
    sigma_i (tanh(beta (k - i)) / 2 + 1/2), i = 1, 2, ..., with a real k per kernel under a budget, and W V_k V_k^T with V from
    the activations A = X W.
Deviations: V comes from the second moment of all calibration rows, A^T A = W^T (X^T X) W, of which the paper's incremental
    PCA over batches is an approximation. Only k is learned, so that no derivative of a singular vector is ever taken, and
    repeated singular values do no harm. What is minimised is the sum over weights of the relative squared error of the gated
    activations, or a loss of the model with gated factors, where the caller gives one. The budget is a projection after each
    step, not a penalty. Whether the gate is wide is a choice (`beta`). The mixed-precision storage is left out.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from moejax.compress.allocation import Matrix
from moejax.compress.statistics import LeafStatistics
from moejax.compress.weighted import Weight
from moejax.compress.weighted_method import WeightedMethod, field
from moejax.core.errors import SpecError

GatedLoss = Callable[[Float[Array, "M R"]], Any]  # gates per matrix -> a scalar


@dataclasses.dataclass(frozen=True, kw_only=True)
class DobiSvd(WeightedMethod):
    """||X (W - W_r)||_F is least at each rank, and the ranks are learned.

    beta: steepness of the gate; about 2 / beta ranks are between kept and dropped. steps: of Adam. learning_rate: of the first
    step, in parts of the largest rank; it falls linearly to zero. Raises SpecError for numbers that are not positive.
    """

    needs: ClassVar[tuple[str, ...]] = ("second_moment",)

    beta: float = 0.5
    steps: int = 200
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        for name in ("beta", "steps", "learning_rate"):
            if getattr(self, name) <= 0:
                raise SpecError(f"{name}={getattr(self, name)} must be positive.")

    def weights(self, statistics: LeafStatistics | None) -> tuple[Weight, Weight]:
        """L = X^T X, so that the axes on the right are those of the activations."""
        return field(statistics, "second_moment"), None

    def learn_ranks(
        self,
        matrices: Sequence[Matrix],
        energies: Sequence[Float[np.ndarray, "_"]],
        budget: float,
        *,
        loss: GatedLoss | None = None,
    ) -> Float[np.ndarray, "M"]:
        """A real rank per matrix that together cost `budget`, or all they can.

        energies: squared spectra as parts of their weight's total. loss: of the gates [M R] of all matrices, R the largest
        rank of any of them.
        """
        cost = np.asarray([float(matrix.rank_cost) for matrix in matrices])
        cap = np.asarray([float(max(matrix.largest_rank, 1)) for matrix in matrices])
        shares = np.zeros((len(matrices), int(cap.max())), np.float32)
        for row, energy in zip(shares, energies, strict=True):
            row[: len(energy)] = energy[: len(row)]

        def objective(k: Array) -> Array:
            gates = gate(k, shares.shape[1], self.beta)
            return gated_error(gates, jnp.asarray(shares)) if loss is None else loss(gates)

        return self._descend(jax.jit(jax.value_and_grad(objective)), cost, cap, budget)

    def _descend(self, objective: Callable, cost: np.ndarray, cap: np.ndarray, budget: float) -> np.ndarray:
        """Projected Adam on the gradient along the budget: of the plain one Adam would see little but the sign."""
        rates = optax.linear_schedule(self.learning_rate * float(cap.max()), 0.0, self.steps)
        optimiser = optax.scale_by_adam()
        k = project(cap * budget / float(cost @ cap), cost, cap, budget)
        state = optimiser.init(jnp.zeros(k.shape, jnp.float32))
        best, least = k, np.inf
        for step in range(self.steps):
            value, slope = objective(jnp.asarray(k, jnp.float32))
            if float(value) < least:
                best, least = k, float(value)
            along = np.asarray(slope, np.float64)
            along = along - cost * (along @ cost) / (cost @ cost)
            update, state = optimiser.update(jnp.asarray(along, jnp.float32), state)
            k = project(k - float(rates(step)) * np.asarray(update, np.float64), cost, cap, budget)
        return best


def gate(k: Float[Array, "M"], size: int, beta: float) -> Float[Array, "M R"]:
    """tanh(beta (k - i)) / 2 + 1/2 for i = 1 ... size."""
    index = jnp.arange(1, size + 1, dtype=k.dtype)
    return 0.5 * jnp.tanh(beta * (k[:, None] - index[None, :])) + 0.5


def gated_error(gates: Float[Array, "M R"], shares: Float[Array, "M R"]) -> Float[Array, ""]:
    """The squared error of activations whose components are scaled by the gates; shares: squared singular values."""
    return jnp.sum(shares * (1 - gates) ** 2)


def project(k: np.ndarray, cost: np.ndarray, cap: np.ndarray, budget: float) -> Float[np.ndarray, "M"]:
    """The nearest ranks (distances weighed by nothing) in [1, cap] that cost exactly `budget`; all of cap where that is less."""
    if cost @ cap <= budget:
        return cap
    low, high = -1.0, 1.0
    while cost @ np.clip(k - high * cost, 1, cap) > max(budget, cost.sum()):
        high *= 2
    while cost @ np.clip(k - low * cost, 1, cap) < budget:
        low *= 2
    for _ in range(100):
        middle = (low + high) / 2
        spent = cost @ np.clip(k - middle * cost, 1, cap)
        low, high = (middle, high) if spent > budget else (low, middle)
    return np.clip(k - high * cost, 1, cap)


EXAMPLES = (DobiSvd(steps=20), DobiSvd(beta=2.0, steps=10, learning_rate=0.1))
