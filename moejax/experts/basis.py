"""Experts whose first kernels are mixtures of bases that all share, times a factor of each expert's own.

Source: Chen et al. 2025, "MoBE: Mixture-of-Basis-Experts for Compressing MoE-based LLMs": W_e = A_e f(sum_j
    alpha_ej B_j) for the kernels into the hidden layer; the kernel out of it stays dense.
Deviations: trained from scratch, where MoBE fits the factors to trained experts (moejax/compress does that). Mixtures are
    convex by a softmax over `alpha`. Bases and factors are drawn so that a kernel has the variance of a dense draw.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.experts.factorised import FactorisedExperts
from moejax.linear.shared_basis import FUNCTIONS, SharedBasis


@dataclasses.dataclass(frozen=True, kw_only=True)
class BasisExperts(FactorisedExperts):
    """up (and gate) of expert e is f(sum_j alpha_ej basis_j) own_e, with bases [N D R] for all and own_e [R F]; down is dense.

    num_bases: N. rank: R. function: f. convex: a softmax over the bases makes the mixture.
    Mixing the bases takes 2 N D R FLOPs per expert and call, whatever the number of tokens.
    Raises SpecError for sizes below 1.
    """

    num_bases: int
    rank: int
    function: Literal["identity", "silu", "tanh"] = "silu"
    convex: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_bases", "rank"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} must be at least 1.")

    def init_leaf(self, key: PRNGKeyArray, name: str, num_experts: int, inputs: int, outputs: int) -> Any:
        """A SharedBasis for what leads into the hidden layer, else a dense leaf."""
        if name == "down":
            return self.init_dense_leaf(key, num_experts, inputs, outputs)
        alpha_std = 1.0 if self.convex else self.num_bases**-0.5
        alpha = self.draw(named(key, "alpha"), (num_experts, 1, self.num_bases), alpha_std)[:, 0]
        weight = jax.nn.softmax(alpha, axis=-1) if self.convex else alpha
        # Mixtures of unit variance, whatever the weights are.
        basis_std = jnp.mean(jnp.sum(jnp.square(weight), axis=-1)) ** -0.5
        basis = basis_std * self.draw(named(key, "basis"), (1, self.num_bases * inputs, self.rank), 1.0)[0]
        own_std = (self.variance(inputs, outputs) / (self.rank * second_moment(self.function))) ** 0.5
        own = self.draw(named(key, "own"), (num_experts, self.rank, outputs), own_std)
        shaped = basis.reshape(self.num_bases, inputs, self.rank)
        return SharedBasis(own, alpha, shaped, function=self.function, convex=self.convex)

    def leaf_params(self, name: str, num_experts: int, inputs: int, outputs: int) -> int:
        """N D R + E (N + R F), of down E F D."""
        if name == "down":
            return num_experts * inputs * outputs
        return self.num_bases * inputs * self.rank + num_experts * (self.num_bases + self.rank * outputs)

    def leaf_flops(self, name: str, inputs: int, outputs: int) -> int:
        """2 R (D + F), of down 2 F D."""
        return 2 * inputs * outputs if name == "down" else 2 * self.rank * (inputs + outputs)


def second_moment(function: str) -> float:
    """The mean of f(z)^2 for a standard normal z, by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(48)
    values = {"identity": points, "tanh": np.tanh(points), "silu": points / (1 + np.exp(-points))}
    assert values.keys() == FUNCTIONS.keys()
    return float(np.sum(weights * values[function] ** 2) / np.sum(weights))


EXAMPLES = (
    BasisExperts(expert_dim=6, num_bases=2, rank=3),
    BasisExperts(expert_dim=6, num_bases=3, rank=2, function="tanh", gated=True),
    BasisExperts(expert_dim=4, num_bases=2, rank=2, function="identity", convex=False, equal_init=True),
)
