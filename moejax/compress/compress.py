"""The library call: any tree of kernels, any method, one budget.

    compressed = compress(params, method="svd_llm", budget=0.5, statistics={"Dense_0/kernel": from_rows(x)})

Source: ours.
"""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from moejax.compress import allocation as budgets
from moejax.compress import bank_budgets, curves, statistic_checks
from moejax.compress.allocation import Matrix, Urgency
from moejax.compress.contract import BankMethod, KernelMethod, SpectralMethod
from moejax.compress.factors import Factors
from moejax.compress.refit import Collect, refit_in_order
from moejax.compress.report import Report
from moejax.compress.spectral_tuning import convert_kernels
from moejax.compress.statistics import Statistics
from moejax.compress.truncate import truncate
from moejax.compress.weights import Weight, find, replace
from moejax.core.errors import SpecError, did_you_mean
from moejax.core.spec import build_method

ALLOCATIONS = ("uniform", "spectrum", "fisher", "sensitivity", "learned")
Loss = Callable[[Any], Any]  # parameters -> a scalar


@dataclasses.dataclass(frozen=True)
class Compressed:
    """params: the tree with other leaves in place of the kernels that shrank. report: what it cost and gave."""

    params: Any
    report: Report


def compress(
    params: Any,
    *,
    method: KernelMethod | BankMethod | SpectralMethod | dict[str, Any] | str,
    budget: float | None = None,
    unit: str = "params",
    statistics: Statistics | None = None,
    only: str | None = None,
    allocation: str | None = None,
    loss: Loss | None = None,
    sequential: Collect | None = None,
) -> Compressed:
    """Kernels [D F] and banks [E D F] of a nested dict of arrays or leaves, compressed together.

    method: a file of this folder by name, config or spec. budget: the fraction of the matched weights' parameters that may
    stay (unit 'flops': of their FLOPs per row); 1 or more changes nothing; methods for fine-tuning ('svdiff', 'svfit',
    'svft') take none, and the report counts what trains. statistics: per weight, see `statistics.from_rows`.
    only: a regex of the names to compress, see `weights.find`. allocation: who gets how many ranks: 'uniform', 'spectrum'
    (own-norm error), 'fisher', 'sensitivity' (measured with `loss`), or 'learned' where the method does it; None: learned
    if it can be, else uniform. loss: parameters -> scalar, for 'sensitivity', and differentiable for 'learned'.
    sequential: collect(params, names) -> statistics; after truncation each layer is fitted again, in order, on what the
    layers before it now put out (methods with a `refit`).

    Kernels whose factors would be no smaller stay as they are. Everything runs on the host in float64, one matrix at a time.
    Raises SpecError, before anything is computed, for a misspelt name, statistics that are missing, misshapen or not finite,
    and a budget that cannot be met, naming the smallest reachable one. Warns where there are fewer rows than ranks.
    """
    spec: Any = build_method("compress", method, path="method") if isinstance(method, str | dict) else method
    name = type(spec).__module__.rpartition(".")[2]
    if isinstance(spec, SpectralMethod) and budget is None:
        return Compressed(*convert_kernels(params, spec, name, only=only))
    _check_options(spec, budget, unit, allocation, loss, sequential)
    assert budget is not None
    if isinstance(spec, BankMethod):
        result = bank_budgets.compress_banks(params, spec, name, budget=budget, statistics=statistics, only=only)
        return Compressed(*result)
    allocation = allocation or ("learned" if hasattr(spec, "learn_ranks") else "uniform")
    weights = list(find(params, only).values())
    matrices = matrices_of(weights, unit)
    allowed = budgets.part_of(budgets.dense_total(matrices), budget)
    budgets.check_reachable(matrices, allowed, unit)
    kinds = (*spec.needs, *(("fisher_rows",) if allocation == "fisher" else ()))
    own = [statistic_checks.check(weight, statistics, kinds, who=f"{name!r}") for weight in weights]
    factors = Factors(spec, weights, own)
    urgency = _urgency(params, spec, weights, matrices, factors, allocation, allowed, loss)
    ranks = budgets.allocate(matrices, urgency, allowed, unit=unit)
    nodes, reports, warned = {}, [], []
    for number, weight in enumerate(weights):
        chosen = [rank for matrix, rank in zip(matrices, ranks, strict=True) if matrix.weight == number]
        warned.append(statistic_checks.warn_of_few_rows(weight, own[number] if spec.needs else None, chosen))
        nodes[weight.name], row = truncate(weight, chosen, factors, number)
        reports.append(row)
    if sequential is not None:
        nodes, reports = refit_in_order(params, spec, weights, nodes, reports, sequential)
    spent = sum((_cost(m, rank) for m, rank in zip(matrices, ranks, strict=True)), Fraction(0))
    report = Report(
        name, allocation, unit, float(budget), float(budgets.dense_total(matrices)), float(allowed), float(spent),
        tuple(reports), tuple(text for text in warned if text),
    )  # fmt: skip
    return Compressed(replace(params, nodes), report)


def matrices_of(weights: Sequence[Weight], unit: str) -> list[Matrix]:
    """One entry per kernel and per expert of a bank."""
    found = []
    for number, weight in enumerate(weights):
        price = Fraction(1) if unit == "params" else Fraction(2, weight.num_matrices)
        depth, width = weight.shape[-2:]
        found += [Matrix(depth, width, number, price)] * weight.num_matrices
    return found


def _check_options(
    spec: Any, budget: float | None, unit: str, allocation: str | None, loss: Loss | None, sequential: Collect | None
) -> None:
    name = type(spec).__name__
    if not isinstance(spec, KernelMethod | BankMethod):
        raise SpecError(f"{name} makes nothing smaller, it is for fine-tuning: leave out budget={budget}.")
    if budget is None or not budget > 0:
        raise SpecError(f"budget={budget} must be positive: the fraction of the parameters that may stay, such as 0.5.")
    if unit not in ("params", "flops"):
        raise SpecError(f"unit={unit!r} is not allowed.{did_you_mean(str(unit), ('params', 'flops'))}")
    if allocation is not None and allocation not in ALLOCATIONS:
        raise SpecError(f"allocation={allocation!r} is not allowed.{did_you_mean(str(allocation), ALLOCATIONS)}")
    if allocation == "learned" and not hasattr(spec, "learn_ranks"):
        raise SpecError(f"{name} does not learn ranks; take another allocation, or the method 'dobi'.")
    if allocation == "sensitivity" and loss is None:
        raise SpecError("allocation='sensitivity' measures a loss: give loss=f with f(params) -> a number.")
    if sequential is not None and not hasattr(spec, "refit"):
        raise SpecError(f"{name} has no closed-form update; leave `sequential` out, or take the method 'svd_llm'.")
    if isinstance(spec, BankMethod) and (unit != "params" or allocation not in (None, "uniform")):
        raise SpecError(
            f"{name} compresses whole banks by parameters: unit={unit!r} and allocation={allocation!r} are for methods that "
            "factorise single kernels; leave them out."
        )


def _urgency(
    params: Any,
    spec: Any,
    weights: list[Weight],
    matrices: list[Matrix],
    factors: Factors,
    allocation: str,
    allowed: Fraction,
    loss: Loss | None,
) -> list[Urgency]:
    """By the allocation of this name; all dense where everything fits, without looking at any matrix."""
    if allocation == "uniform" or allowed >= budgets.dense_total(matrices):
        share = getattr(spec, "share", lambda name: 1.0)
        return budgets.uniform(matrices, [share(weights[matrix.weight].name) for matrix in matrices])
    if allocation == "sensitivity":
        assert loss is not None
        return budgets.by_sensitivity(matrices, curves.measured(params, weights, factors, matrices, loss))
    energies, rests = curves.energies(matrices, factors)
    if allocation == "fisher":
        scaled = curves.by_fisher(weights, matrices, factors, energies, rests)
        return budgets.by_energy(matrices, *scaled)
    energies, rests = budgets.relative_energies(matrices, energies, rests)
    if allocation == "spectrum":
        return budgets.by_energy(matrices, energies, rests)
    gated = None if loss is None else curves.gated_loss(params, weights, factors, matrices, loss)
    return budgets.by_learned_ranks(matrices, curves.learned(spec, matrices, energies, allowed, gated))


def _cost(matrix: Matrix, rank: int | None) -> Fraction:
    return matrix.dense_cost if rank is None else rank * matrix.rank_cost
