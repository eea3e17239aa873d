"""Experts whose kernels are products of two thin factors, of one rank or of a rank per expert.

Source: FlexMoRE, section 3: experts of different ranks beside each other, the full expert being rank min(D, F);
    ours (trained from scratch, without a base expert; `residual` has one).
Deviations: factors are drawn as normal numbers; FlexMoRE gets them from trained experts by singular value decomposition.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.experts.factorised import FactorisedExperts
from moejax.experts.ranks import check_rank, cut_ranks, stored_ranks
from moejax.linear.low_rank import LowRank


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankExperts(FactorisedExperts):
    """Every kernel [D F] is u [D R] v [R F]: 2 R (D + F) FLOPs and R (D + F) parameters in the place of D F.

    rank: of all kernels, or a tuple for the experts in turn, whose length divides the number of experts. What exceeds
        min(D, F) is cut to that, which is a full expert. Factors of different ranks are stored as wide as the largest and
        counted as wide as they are.
    Raises SpecError for a rank below 1, a tuple that does not fit the experts, or ranks that differ with `equal_init`.
    """

    rank: int | tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rank(self.rank)
        if self.equal_init and len(set(cut_ranks(self.rank, 1 << 62))) > 1:
            raise SpecError(f"equal_init=True and rank={self.rank}: experts of different ranks cannot start as copies.")

    def init_leaf(self, key: PRNGKeyArray, name: str, num_experts: int, inputs: int, outputs: int) -> LowRank:
        """Factors u with variance 1 / inputs, and v so that the product has the variance of a dense kernel, whatever the rank."""
        return init_low_rank(self, key, self.rank, num_experts, (inputs, outputs), self.variance(inputs, outputs))

    def leaf_params(self, name: str, num_experts: int, inputs: int, outputs: int) -> int:
        """The sum of the experts' ranks times inputs + outputs."""
        return sum(stored_ranks(self.rank, num_experts, min(inputs, outputs))) * (inputs + outputs)

    def leaf_flops(self, name: str, inputs: int, outputs: int) -> int:
        """2 R (inputs + outputs), R the mean rank; rounded down."""
        ranks = cut_ranks(self.rank, min(inputs, outputs))
        return 2 * sum(ranks) * (inputs + outputs) // len(ranks)


def init_low_rank(
    bank: FactorisedExperts,
    key: PRNGKeyArray,
    rank: int | tuple[int, ...],
    num_experts: int,
    shape: tuple[int, int],
    variance: float,
) -> LowRank:
    """E products [D F] whose entries have that variance. Raises SpecError for a tuple that does not fit the experts."""
    inputs, outputs = shape
    ranks = stored_ranks(rank, num_experts, min(shape))
    width = max(ranks)
    u = bank.draw(named(key, "u"), (num_experts, inputs, width), inputs**-0.5)
    v = bank.draw(named(key, "v"), (num_experts, width, outputs), (variance * inputs / width) ** 0.5)
    if len(set(ranks)) == 1:
        return LowRank(u, v)
    cut = LowRank(u, v * _scale(ranks)[:, None, None], ranks).cleared()  # zeros beyond the ranks
    return dataclasses.replace(cut, ranks=ranks)


def _scale(ranks: tuple[int, ...]) -> Float[Array, "E"]:
    """What makes up for components that an expert has not."""
    return jnp.sqrt(max(ranks) / jnp.asarray(ranks, jnp.float32))


EXAMPLES = (
    LowRankExperts(expert_dim=6, rank=2),
    LowRankExperts(expert_dim=6, rank=3, gated=True, equal_init=True),
    LowRankExperts(expert_dim=6, rank=(3, 1, 2)),
    LowRankExperts(expert_dim=4, rank=9, activation="relu", dropout_rate=0.25),
)
