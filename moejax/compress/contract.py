"""The contracts of compression. A method is a frozen spec of one file of this folder; its name in configs is the file's.

A *kernel* method factorises one kernel at a time, for every rank at once; who gets how much is decided by `allocation.py`,
and `compress.py` walks the tree. A *bank* method sees all kernels of one bank of experts and spends a number of parameters.
A *spectral* method makes nothing smaller: it rewrites a kernel so that few of its numbers train.
Everything here runs on the host in float64 (NumPy), whatever the model computes in.
"""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from moejax.compress.statistics import LeafStatistics, Statistics


@dataclasses.dataclass(frozen=True)
class Factorisation:
    """kernel = u v; the best of rank r in the method's own norm is u[:, :r] v[:r], and what it costs is the tail.

    u: [D N], v: [N F], spectrum: [N], falling; N may be less than min(D, F) where the rest is exactly zero in that norm.
    The squared own-norm error of rank r is sum(spectrum[r:] ** 2) (+ `rest` for what was never computed, such as beyond the
    largest rank of a randomised decomposition).
    """

    u: Float[np.ndarray, "D N"]
    v: Float[np.ndarray, "N F"]
    spectrum: Float[np.ndarray, "N"]
    rest: float = 0.0


@runtime_checkable
class KernelMethod(Protocol):
    """Factorises one kernel.

    A method may also have share(name) -> float, the part that a weight of this name keeps in the allocation 'uniform';
    learn_ranks (see `dobi`), which makes 'learned' an allocation and its default; and refit (see `svd_llm`), a closed-form
    update behind layers that are compressed already.
    """

    needs: ClassVar[tuple[str, ...]]  # kinds of statistics, keys of `statistics.KINDS`

    def factorise(
        self, kernel: Float[np.ndarray, "D F"], statistics: LeafStatistics | None, *, largest_rank: int | None = None
    ) -> Factorisation:
        """For every rank up to `largest_rank` (None: all). Statistics of this one kernel, without an expert axis."""
        ...

    def error(
        self,
        kernel: Float[np.ndarray, "D F"],
        approximation: Float[np.ndarray, "D F"],
        statistics: LeafStatistics | None,
    ) -> float:
        """The distance of two kernels in the norm in which the method is optimal."""
        ...


@runtime_checkable
class BankMethod(Protocol):
    """Compresses the kernels of one bank together."""

    needs: ClassVar[tuple[str, ...]]

    def compress_bank(self, bank: dict[str, Any], statistics: Statistics, *, num_params: int) -> dict[str, Any]:
        """The bank with other leaves, of at most `num_params` parameters (biases included).

        bank: 'up', 'down' (and 'gate') leaves [E D F] and [E F D], biases [E ...] beside them. 'router', where the tree has
        one beside the bank, is the kernel [D E] of the layer's router: only read, neither counted nor returned.
        statistics: by those names, and 'router' for what the layer's router read, where it was collected.
        Raises SpecError naming the smallest reachable number when `num_params` is below it.
        """
        ...


@runtime_checkable
class SpectralMethod(Protocol):
    """Rewrites one kernel in its singular basis so that training moves the spectrum only. No budget, no data, no loss."""

    def convert(self, kernel: Float[np.ndarray, "... D F"]) -> Any:
        """A leaf of `linear.spectral` that multiplies as `kernel` [D F] or [E D F] does, to rounding. Factors are float32."""
        ...

    def num_trained(self, kernel: Float[np.ndarray, "... D F"]) -> int:
        """How many numbers of the converted leaf train; the others are to be frozen (`frozen_patterns`)."""
        ...
