"""Sub-MoE: experts whose outputs point the same way are merged in a subspace that they share.

Source: Li et al. 2025, "Sub-MoE: Efficient Mixture-of-Expert LLMs Compression via Subspace Expert Merging": K-means on the
    cosine similarity of expert outputs; per cluster [W_1 ... W_m] = U S [V_1 ... V_m]^T; V = sum f_i V_i / sum f_i; W = U S V^T.
Deviations: the basis U is shared on the smaller side of a kernel (the paper's text leaves the side open), which costs least to
    find. Untruncated, U S V^T is the average sum f_i W_i / sum f_i, by linearity, and is stored as that. K-means starts from
    the most frequent expert and goes on with the one farthest from those chosen, so that nothing is random. Biases are
    averaged too; each expert keeps a copy.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from moejax.compress import expert_bank
from moejax.compress.expert_bank import HostBank
from moejax.compress.low_rank_bank import low_rank_bank
from moejax.compress.output_clusters import cluster, output_cosines
from moejax.compress.statistics import Statistics
from moejax.core.errors import SpecError, did_you_mean
from moejax.linear.epilogue import ACTIVATIONS
from moejax.linear.indexed import Indexed


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubMoE:
    """num_merged: clusters, each one expert afterwards; where the budget is below so many dense experts, their kernels are
    truncated to the rank that meets it. None: as many dense experts as the budget allows, and one of low rank below that.

    activation: of the experts, to compute their outputs; None: gelu, or silu with a gate.
    Raises SpecError for a number below 1, an activation that does not exist, and where there are no rows of the router.
    """

    needs: ClassVar[tuple[str, ...]] = ("rows",)

    num_merged: int | None = None
    activation: str | None = None

    def __post_init__(self) -> None:
        if self.num_merged is not None and self.num_merged < 1:
            raise SpecError(f"num_merged={self.num_merged} must be at least 1 (or None: as many as the budget allows).")
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise SpecError(f"activation={self.activation!r} is none.{did_you_mean(self.activation, ACTIVATIONS)}")

    def compress_bank(self, bank: dict[str, Any], statistics: Statistics, *, num_params: int) -> dict[str, Any]:
        """Every expert computes with the merged expert of its cluster. Shapes and errors: see `contract.BankMethod`."""
        host = expert_bank.read(bank)
        if num_params >= host.num_params:
            return expert_bank.unchanged(bank)
        count = expert_bank.activation_counts(statistics, host.num_experts)
        budget = num_params - host.num_biases
        merged = min(self.num_merged or max(budget // host.expert_size, 1), host.num_experts)
        expert_bank.check_merged_reachable("sub_moe", host, num_params, merged)
        rows = expert_bank.of_leaf(
            statistics, "router", "rows", kind="rows", why="the inputs on which outputs are compared"
        )
        index = cluster(output_cosines(bank, rows, self.activation), merged, first=int(np.argmax(count)))
        weight = expert_bank.averaging(count, index)
        if budget >= merged * host.expert_size:
            leaves = {name: _averages(host, name, weight, index) for name in host.kernels}
        else:
            leaves = _truncated(host, weight, index, budget // host.rank_cost)
        return leaves | host.merged_biases(weight, index)


def _averages(host: HostBank, name: str, weight: Float[np.ndarray, "G E"], index: tuple[int, ...]) -> Indexed:
    return expert_bank.indexed_dense(host, name, [host.merged(name, row) for row in weight], index)


def _truncated(
    host: HostBank, weight: Float[np.ndarray, "G E"], index: tuple[int, ...], units: int
) -> dict[str, Indexed]:
    """Merged kernels in the leading part of their cluster's basis, `units` ranks over all of them, equally."""
    entries = [(name, group) for name in host.kernels for group in range(len(weight))]
    largest = units // len(entries) + 1  # no entry gets more: the remainder is one each
    factors = {}
    for name, group in entries:
        members = (host.kernel(name, int(e)) for e in np.flatnonzero(np.asarray(index) == group))
        u, v = in_shared_basis(shared_basis(members), host.merged(name, weight[group]))
        factors[name, group] = u[:, :largest], v[:largest]
    energies = [_energies(*factors[entry]) for entry in entries]
    ranks = dict(zip(entries, expert_bank.spread(units, energies), strict=True))
    cut = {entry: (u[:, : ranks[entry]], v[: ranks[entry]]) for entry, (u, v) in factors.items()}
    return {
        name: Indexed(low_rank_bank([cut[name, group] for group in range(len(weight))], host.dtype(name)), index)
        for name in host.kernels
    }


def shared_basis(kernels: Iterable[np.ndarray]) -> tuple[Float[np.ndarray, "R R"], bool]:
    """U of the singular value decomposition of all kernels [D F] side by side, strongest first, and whether it is the side D.

    For D > F the kernels are stacked the other way and U is of the side F.
    """
    gram: Any = 0.0
    for kernel in kernels:
        of_inputs = kernel.shape[0] <= kernel.shape[1]
        gram = gram + (kernel @ kernel.T if of_inputs else kernel.T @ kernel)
    return np.linalg.eigh(gram)[1][:, ::-1], of_inputs


def in_shared_basis(
    basis: tuple[Float[np.ndarray, "R R"], bool], kernel: Float[np.ndarray, "D F"]
) -> tuple[Float[np.ndarray, "D R"], Float[np.ndarray, "R F"]]:
    """The kernel as a product of the basis and its own coordinates S V^T, in the order that the basis has."""
    u, of_inputs = basis
    return (u, u.T @ kernel) if of_inputs else (kernel @ u, u.T)


def _energies(u: Float[np.ndarray, "D R"], v: Float[np.ndarray, "R F"]) -> Float[np.ndarray, "R"]:
    return np.sum(u**2, axis=0) * np.sum(v**2, axis=1)


EXAMPLES = (SubMoE(), SubMoE(num_merged=2))
