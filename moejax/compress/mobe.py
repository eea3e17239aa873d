"""MoBE: the experts' kernels as their own factor times a non-linear mixture of bases that all share, fitted by gradient.

Source: Chen et al. 2025, "MoBE: Mixture-of-Basis-Experts for Compressing MoE-based LLMs": W_i = A_i f(sum_j alpha_ij B_j),
    alpha convex, f SiLU or tanh, all factors by Adam on the reconstruction error of normalised kernels; up and gate only.
Deviations: kernels are divided by their standard deviation, which goes into A_i; the mean, which no factor can hold, is not
    subtracted. Bases are shared on the longer side of a kernel, so that A_i is small. Start: experts in as many groups as there
    are bases, each basis the leading singular vectors of its group, small enough for f to be nearly linear. The last A_i are
    the exact least squares for the bases found, and the best step is kept, so that the fit is never worse than its start.
"""

import dataclasses
from functools import partial
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from moejax.compress import expert_bank
from moejax.compress.basis_fit import fit_bases, start_bases
from moejax.compress.expert_bank import HostBank
from moejax.compress.statistics import Statistics
from moejax.core.errors import SpecError
from moejax.linear.shared_basis import SharedBasis


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoBE:
    """num_bases: shared by all experts (None: a quarter of the experts; more where all ranks fit). function: f.

    steps, learning_rate: of Adam; the rate is relative to the size of the numbers. include_down: factorise
    'down', too (None: where the budget is out of reach without).
    Raises SpecError for fewer than 1 basis, negative steps and a rate that is not positive.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    num_bases: int | None = None
    function: Literal["identity", "silu", "tanh"] = "silu"
    steps: int = 300
    learning_rate: float = 0.01
    include_down: bool | None = None

    def __post_init__(self) -> None:
        if self.num_bases is not None and self.num_bases < 1:
            raise SpecError(f"num_bases={self.num_bases} must be at least 1 (or None: a quarter of the experts).")
        if self.steps < 0 or self.learning_rate <= 0:
            raise SpecError(f"steps={self.steps} must be at least 0 and learning_rate={self.learning_rate} positive.")

    def compress_bank(self, bank: dict[str, Any], statistics: Statistics, *, num_params: int) -> dict[str, Any]:
        """Shared bases for 'up' and 'gate'. Shapes and errors: see `contract.BankMethod`."""
        del statistics
        host = expert_bank.read(bank)
        if num_params >= host.num_params:
            return expert_bank.unchanged(bank)
        names = self._factorised(host, num_params)
        kept, least = self._least(host, names)
        expert_bank.check_reachable("mobe", num_params, least, "rank 1, and what stays dense")
        num_bases, rank = self._size(host, (num_params - kept) // len(names))
        leaves = {name: self._fitted(host, name, num_bases, rank) for name in names}
        return expert_bank.unchanged(bank) | leaves

    def _factorised(self, host: HostBank, num_params: int) -> list[str]:
        inputs = [name for name in host.kernels if name != "down"]
        include = self._least(host, inputs)[1] > num_params if self.include_down is None else self.include_down
        return [*inputs, "down"] if include else inputs

    def _least(self, host: HostBank, names: list[str]) -> tuple[int, int]:
        """Parameters of what stays dense, and of the smallest bank."""
        kept = host.num_params - sum(host.kernels[name].size for name in names)
        return kept, kept + len(names) * basis_params(host, num_bases=self._least_bases(host), rank=1)

    def _least_bases(self, host: HostBank) -> int:
        return min(self.num_bases or max(host.num_experts // 4, 1), host.num_experts)

    def _size(self, host: HostBank, budget: int) -> tuple[int, int]:
        """The largest rank that fits, and where that is full more bases, but for a number that was given."""
        num_bases = self._least_bases(host)
        full = min(host.kernels["up"].shape[1:])
        if self.num_bases is None:
            while num_bases < host.num_experts and basis_params(host, num_bases=num_bases + 1, rank=full) <= budget:
                num_bases += 1
        fixed = host.num_experts * num_bases
        return num_bases, min((budget - fixed) // (basis_params(host, num_bases=num_bases, rank=1) - fixed), full)

    def _fitted(self, host: HostBank, name: str, num_bases: int, rank: int) -> SharedBasis:
        depth, width = host.kernels[name].shape[1:]
        side = "input" if depth >= width else "output"
        moments = [
            (kernel.mean(), np.mean(kernel**2)) for kernel in map(partial(host.kernel, name), range(host.num_experts))
        ]
        mean, square = np.mean(moments, axis=0)
        scale = float(np.sqrt(max(square - mean**2, 0.0))) or 1.0
        start = start_bases(host, name, side, num_bases, rank, self.function)
        fitted = fit_bases(host, name, start, scale=scale, steps=self.steps, learning_rate=self.learning_rate)
        dtype = host.dtype(name)
        own, alpha, basis = (jnp.asarray(array, dtype) for array in (fitted.own, fitted.alpha, fitted.basis))
        return dataclasses.replace(fitted, own=own, alpha=alpha, basis=basis)


def basis_params(host: HostBank, *, num_bases: int, rank: int) -> int:
    """Parameters of one kernel's leaf: N L R of the bases, E S R of the experts' own, E N of alpha; L >= S are D and F."""
    experts, *sides = host.kernels["up"].shape
    return rank * (num_bases * max(sides) + experts * min(sides)) + experts * num_bases


EXAMPLES = (MoBE(steps=20), MoBE(steps=5, function="tanh", num_bases=2, include_down=True))
