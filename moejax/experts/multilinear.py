"""Multilinear experts: the kernels of all experts are one tensor [E D F] in factorised form, never made.

Source: Oldfield et al. 2024, "Multilinear Mixture of Experts: Scalable Expert Specialization through Factorization" (muMoE):
    the CP and the tensor-ring form (a tensor train is a ring with one bond of size 1).
Deviations: muMoE weighs all experts by entmax gates and sums over them inside the product; here any router of moejax/routing
    chooses, and a token meets the experts of its plan. Factors are drawn so that a kernel has the variance of a dense draw.
"""

import dataclasses
from typing import Any, Literal

from jaxtyping import Array, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.experts.factorised import FactorisedExperts
from moejax.linear.cp import Cp
from moejax.linear.tensor_ring import TensorRing


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultilinearExperts(FactorisedExperts):
    """Every kernel is a Cp or a TensorRing leaf: parameters grow by R ('cp') or R R2 ('tensor_ring') per expert and kernel.

    rank: R of 'cp'. Of 'tensor_ring' the three bonds: between experts and inputs, experts and outputs, inputs and outputs;
        one number gives all three.
    Raises SpecError for a rank below 1, or three ranks for 'cp'.
    """

    rank: int | tuple[int, int, int]
    form: Literal["cp", "tensor_ring"] = "cp"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.bonds) < 1:
            raise SpecError(f"rank={self.rank} must be at least 1.")
        if self.form == "cp" and isinstance(self.rank, tuple):
            raise SpecError(f"rank={self.rank}: 'cp' has one rank; give a number, or form='tensor_ring'.")

    @property
    def bonds(self) -> tuple[int, int, int]:
        """R, R2 and R3 of a ring."""
        return self.rank if isinstance(self.rank, tuple) else (self.rank, self.rank, self.rank)

    def init_leaf(self, key: PRNGKeyArray, name: str, num_experts: int, inputs: int, outputs: int) -> Any:
        """The leaf of the tensor [E, inputs, outputs]."""
        target = self.variance(inputs, outputs) * inputs
        left, right, between = self.bonds
        if self.form == "cp":
            scale = self.draw(named(key, "scale"), (num_experts, 1, left), 1.0)[:, 0]
            u = self._shared(named(key, "u"), (inputs, left), inputs**-0.5)
            return Cp(u, scale, self._shared(named(key, "v"), (left, outputs), (target / left) ** 0.5))
        core = self.draw(named(key, "core"), (num_experts, left, right), left**-0.5)
        first = self._shared(named(key, "input"), (inputs, between * left), inputs**-0.5)
        last = self._shared(named(key, "output"), (between * right, outputs), (target / (right * between)) ** 0.5)
        return TensorRing(core, first.reshape(inputs, between, left), last.reshape(between, right, outputs))

    def leaf_params(self, name: str, num_experts: int, inputs: int, outputs: int) -> int:
        """R (E + D + F), or E R R2 + D R3 R + R3 R2 F."""
        left, right, between = self.bonds
        if self.form == "cp":
            return left * (num_experts + inputs + outputs)
        return num_experts * left * right + between * (inputs * left + right * outputs)

    def leaf_flops(self, name: str, inputs: int, outputs: int) -> int:
        """2 R (D + F), or 2 R3 (D R + R R2 + R2 F)."""
        left, right, between = self.bonds
        if self.form == "cp":
            return 2 * left * (inputs + outputs)
        return 2 * between * (inputs * left + left * right + right * outputs)

    def _shared(self, key: PRNGKeyArray, shape: tuple[int, int], std: float) -> Array:
        return self.draw(key, (1, *shape), std)[0]


EXAMPLES = (
    MultilinearExperts(expert_dim=6, rank=4),
    MultilinearExperts(expert_dim=6, rank=(2, 3, 2), form="tensor_ring"),
    MultilinearExperts(expert_dim=4, rank=2, form="tensor_ring", gated=True, equal_init=True),
)
