"""Experts as a core that all share plus a residual of each expert's own.

Source: Wu et al. 2022, "Residual Mixture of Experts" (RMoE): W_e = W_core + R_e; residuals of a low rank: FlexMoRE,
    the base expert plus U_e V_e.
Deviations: here both may be trained from scratch; `optimizer.frozen = ('/core$',)` trains the residuals alone, as RMoE does
    from a pre-trained core. RMoE's residuals start at zero, which `residual_share=0` gives.
"""

import dataclasses
import math
from typing import Any

from jaxtyping import PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.experts.factorised import FactorisedExperts
from moejax.experts.low_rank import init_low_rank
from moejax.experts.ranks import check_rank, cut_ranks, stored_ranks
from moejax.linear.dense import Dense
from moejax.linear.residual import Residual


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualExperts(FactorisedExperts):
    """Every kernel is core [D F] + residual_e, the residual dense (rank=None) or of a rank; biases are each expert's own.

    rank: None for dense residuals, a number, or a tuple for the experts in turn.
    residual_share: the part of a kernel's variance at the start that is the residual's; the core has the rest.
    Names: '.../up/core', '.../up/residual/kernel' (of a rank: '.../up/residual/u' and '/v'), '.../up_bias'.
    Raises SpecError for a rank below 1, a share outside [0, 1], or ranks that differ with `equal_init`.
    """

    rank: int | tuple[int, ...] | None = None
    residual_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.residual_share <= 1:
            raise SpecError(
                f"residual_share={self.residual_share} must lie in [0, 1]: the residual's part of the variance."
            )
        if self.rank is not None:
            check_rank(self.rank)
            if self.equal_init and len(set(cut_ranks(self.rank, 1 << 62))) > 1:
                raise SpecError(
                    f"equal_init=True and rank={self.rank}: experts of different ranks cannot start as copies."
                )

    def init_leaf(self, key: PRNGKeyArray, name: str, num_experts: int, inputs: int, outputs: int) -> Residual:
        """Core and residual, which share the variance of a dense draw."""
        core = self.init_dense_leaf(named(key, "core"), 1, inputs, outputs).kernel[0]
        residual = self._init_residual(named(key, "residual"), num_experts, inputs, outputs)
        return Residual(math.sqrt(1 - self.residual_share) * core, residual)

    def _init_residual(self, key: PRNGKeyArray, num_experts: int, inputs: int, outputs: int) -> Any:
        if self.rank is not None:
            variance = self.residual_share * self.variance(inputs, outputs)
            return init_low_rank(self, key, self.rank, num_experts, (inputs, outputs), variance)
        dense = self.init_dense_leaf(key, num_experts, inputs, outputs)
        return Dense(math.sqrt(self.residual_share) * dense.kernel)

    def leaf_params(self, name: str, num_experts: int, inputs: int, outputs: int) -> int:
        """D F of the core; E times that, or the sum of ranks times inputs + outputs, of the residuals."""
        core = inputs * outputs
        if self.rank is None:
            return core + num_experts * inputs * outputs
        return core + sum(stored_ranks(self.rank, num_experts, min(inputs, outputs))) * (inputs + outputs)

    def leaf_flops(self, name: str, inputs: int, outputs: int) -> int:
        """2 inputs outputs: a dense residual is added to the core first; 2 R (inputs + outputs) more for one of rank R."""
        if self.rank is None:
            return 2 * inputs * outputs
        ranks = cut_ranks(self.rank, min(inputs, outputs))
        return 2 * inputs * outputs + 2 * sum(ranks) * (inputs + outputs) // len(ranks)


EXAMPLES = (
    ResidualExperts(expert_dim=6),
    ResidualExperts(expert_dim=6, rank=2, residual_share=0.1),
    ResidualExperts(expert_dim=4, rank=(2, 1, 1), gated=True),
)
