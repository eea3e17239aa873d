"""MC-SMoE: experts merged around the most frequent ones as the router sees them, then made low-rank and sparse.

Source: Li et al. 2024, "Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy": dominant experts
    by activation frequency, the others join the one with the most similar router logits, neurons are matched by permutation,
    kernels are averaged by frequency; the merged kernel becomes U V + S, S with few columns. Weight matching: Ainsworth et al.
    2023, "Git Re-Basin", section 3.2, exact here because an expert has one hidden layer.
Deviations: dominant experts are found in each layer by itself, so that every layer meets its own budget; the paper spreads them
    over all layers. U V + S is fitted to the merged kernel by alternation, not pruned during training. By default the saving is
    split evenly, in its logarithm, between merging and compressing; the paper fixes both by hand. Biases are merged too; each
    expert keeps a copy.
"""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from moejax.compress import expert_bank
from moejax.compress.expert_bank import HostBank
from moejax.compress.low_rank_sparse import fit_low_rank_columns, stacked_leaf
from moejax.compress.statistics import Statistics
from moejax.core.errors import SpecError
from moejax.linear.indexed import Indexed

NEURONS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class McSmoe:
    """num_merged: experts that remain; None: E times the root of the fraction of the kernels' parameters that may stay.

    align: match the neurons before averaging. sparse_fraction: share of a merged expert's parameters that goes to whole
    columns, the others to ranks. rounds: of the alternation between the two.
    Raises SpecError for a number below 1, a fraction outside [0, 1], and where there is no router to look at.
    """

    needs: ClassVar[tuple[str, ...]] = ("rows",)

    num_merged: int | None = None
    align: bool = True
    sparse_fraction: float = 0.5
    rounds: int = 3

    def __post_init__(self) -> None:
        for name, value in (("num_merged", self.num_merged), ("rounds", self.rounds)):
            if value is not None and value < 1:
                raise SpecError(f"{name}={value} must be at least 1.")
        if not 0.0 <= self.sparse_fraction <= 1.0:
            raise SpecError(f"sparse_fraction={self.sparse_fraction} must lie in [0, 1].")

    def compress_bank(self, bank: dict[str, Any], statistics: Statistics, *, num_params: int) -> dict[str, Any]:
        """Every expert computes with the merged expert of its group. Shapes and errors: see `contract.BankMethod`."""
        host = expert_bank.read(bank)
        if num_params >= host.num_params:
            return expert_bank.unchanged(bank)
        count = expert_bank.activation_counts(statistics, host.num_experts)
        budget = num_params - host.num_biases
        merged = self._num_merged(host, budget)
        expert_bank.check_merged_reachable("mc_smoe", host, num_params, merged)
        dominant, index = groups(logit_cosines(bank, statistics), count, merged)
        weight = expert_bank.averaging(count, index)
        orders = _orders(host, dominant, index) if self.align else {}
        if budget >= merged * host.expert_size:
            leaves: dict[str, Any] = {
                name: expert_bank.indexed_dense(host, name, [host.merged(name, row, orders) for row in weight], index)
                for name in host.kernels
            }
        else:
            leaves = self._compressed(host, weight, orders, index, budget)
        return leaves | host.merged_biases(weight, index, orders)

    def _num_merged(self, host: HostBank, budget: int) -> int:
        if self.num_merged is not None:
            return min(self.num_merged, host.num_experts)
        fraction = max(budget, 0) / (host.num_experts * host.expert_size)
        fits = max(budget // host.least_size, 1)  # each needs a rank of every kernel
        return min(max(round(host.num_experts * fraction**0.5), 1), fits)

    def _compressed(
        self, host: HostBank, weight: np.ndarray, orders: dict[int, np.ndarray], index: tuple[int, ...], budget: int
    ) -> dict[str, Indexed]:
        """Each merged kernel as ranks and columns; all kernels get the same share, and the last ranks go where most is left."""
        groups, entries = len(weight), len(weight) * len(host.kernels)
        columns = {}
        for name, kernel in host.kernels.items():
            depth, width = kernel.shape[1:]
            for_columns = (budget / entries - host.rank_cost) * self.sparse_fraction  # one rank is kept free
            columns[name] = min(int(for_columns // depth), width - 1)
        spent = groups * sum(columns[name] * kernel.shape[1] for name, kernel in host.kernels.items())
        units = (budget - spent) // host.rank_cost
        leaves = {}
        for number, (name, kernel) in enumerate(host.kernels.items()):
            own = units // len(host.kernels) + (number < units % len(host.kernels))
            ranks = [own // groups + (group < own % groups) for group in range(groups)]
            ranks = [min(rank, *kernel.shape[1:]) for rank in ranks]
            fitted = [
                fit_low_rank_columns(host.merged(name, row, orders), rank, columns[name], self.rounds)
                for row, rank in zip(weight, ranks, strict=True)
            ]
            leaves[name] = Indexed(stacked_leaf(fitted, host.dtype(name)), index)
        return leaves


def logit_cosines(bank: dict[str, Any], statistics: Statistics) -> Float[np.ndarray, "E E"]:
    """Cosine of the router's logits of each two experts over the sampled rows; zero for logits that are zero.

    Raises SpecError without the router's kernel or without rows that it read.
    """
    if "router" not in bank:
        raise SpecError(
            "mc_smoe groups experts by the router's logits: the bank needs 'router', the router's kernel [D E]."
        )
    rows = expert_bank.of_leaf(statistics, "router", "rows", kind="rows", why="the inputs of the router's logits")
    router = bank["router"]
    kernel = router.materialise() if hasattr(router, "materialise") else router
    logits = rows @ np.asarray(kernel, np.float64)
    length = np.linalg.norm(logits, axis=0)
    inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return (logits.T @ logits) * inverse[:, None] * inverse[None, :]


def groups(
    cosines: Float[np.ndarray, "E E"], count: Float[np.ndarray, "E"], num_groups: int
) -> tuple[list[int], tuple[int, ...]]:
    """The dominant experts, most frequent first, and for every expert the number of the one that it joins."""
    dominant = np.argsort(-count, kind="stable")[:num_groups].tolist()
    index = np.argmax(cosines[:, dominant], axis=1)
    index[dominant] = np.arange(num_groups)
    return dominant, tuple(index.tolist())


def matching(host: HostBank, expert: int, target: int) -> np.ndarray:
    """The order of the hidden neurons of `expert` that brings its kernels and biases nearest to those of `target`."""
    width = host.kernels["up"].shape[2]
    unlike = np.zeros((width, width))  # the only array of this size: [F F] may be large
    for name in host.kernels:
        own, other = host.kernel(name, expert), host.kernel(name, target)
        own, other = (own, other.T) if name != "down" else (own.T, other)
        for start in range(0, width, NEURONS_AT_ONCE):
            unlike[start : start + NEURONS_AT_ONCE] -= other[start : start + NEURONS_AT_ONCE] @ own
    for name, bias in host.biases.items():
        if not name.startswith("down"):
            unlike -= np.outer(bias[target].astype(np.float64), bias[expert].astype(np.float64))
    return linear_sum_assignment(unlike)[1]


def _orders(host: HostBank, dominant: list[int], index: tuple[int, ...]) -> dict[int, np.ndarray]:
    """For every expert that joins another."""
    return {
        expert: matching(host, expert, dominant[group])
        for expert, group in enumerate(index)
        if expert != dominant[group]
    }


EXAMPLES = (
    McSmoe(),
    McSmoe(num_merged=2, sparse_fraction=0.25),
    McSmoe(num_merged=2, align=False, sparse_fraction=0.0),
)
