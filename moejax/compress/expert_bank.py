"""A bank of experts on the host: read in float64 one expert at a time, counted, and its experts merged in groups.

Source: ours.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from moejax.compress.statistics import LeafStatistics, Statistics
from moejax.core.errors import SpecError
from moejax.linear.dense import Dense
from moejax.linear.indexed import Indexed


@dataclasses.dataclass(frozen=True)
class HostBank:
    """kernels: name -> [E D F] in the dtype they are stored in; biases: name -> [E F]. num_params: of all of them.

    arrays: the kernels as jax holds them, on CPU in the same memory; asking jax for them anew would copy them.
    """

    kernels: dict[str, np.ndarray]
    arrays: dict[str, Array]
    biases: dict[str, np.ndarray]
    num_params: int

    @property
    def num_experts(self) -> int:
        return len(self.kernels["up"])

    @property
    def num_biases(self) -> int:
        """Parameters of all biases."""
        return sum(bias.size for bias in self.biases.values())

    @property
    def expert_size(self) -> int:
        """Parameters of the kernels of one dense expert."""
        return sum(kernel[0].size for kernel in self.kernels.values())

    @property
    def rank_cost(self) -> int:
        """Parameters of one rank of one kernel of one expert, D + F: the same for all kernels of a bank."""
        return sum(self.kernels["up"].shape[1:])

    @property
    def least_size(self) -> int:
        """Parameters of the kernels of the smallest expert: of rank 1, or dense where that is less."""
        return min(len(self.kernels) * self.rank_cost, self.expert_size)

    def kernel(self, name: str, expert: int) -> Float[np.ndarray, "D F"]:
        """In float64."""
        return self.kernels[name][expert].astype(np.float64)

    def dtype(self, name: str) -> Any:
        """That `name` is stored in."""
        return self.kernels[name].dtype

    def merged(
        self, name: str, weight: Float[np.ndarray, "E"], orders: dict[int, np.ndarray] | None = None
    ) -> Float[np.ndarray, "D F"]:
        """The weighted sum of the kernels `name`. orders: of the hidden neurons, for experts that are to be permuted."""
        total = np.zeros(self.kernels[name].shape[1:])
        for expert in np.flatnonzero(weight):
            kernel = self.kernel(name, int(expert))
            if orders and expert in orders:
                order = orders[int(expert)]
                kernel = kernel[order] if name == "down" else kernel[:, order]
            total += weight[expert] * kernel
        return total

    def merged_biases(
        self, weight: Float[np.ndarray, "G E"], index: tuple[int, ...], orders: dict[int, np.ndarray] | None = None
    ) -> dict[str, Array]:
        """The biases of the merged experts, each given back to every expert of its group: [E F]."""
        found = {}
        for name, bias in self.biases.items():
            rows = bias.astype(np.float64)
            for expert, order in (orders or {}).items():
                if not name.startswith("down"):
                    rows[expert] = rows[expert][order]
            found[name] = jnp.asarray((weight @ rows)[list(index)].astype(bias.dtype))
        return found


def read(bank: dict[str, Any]) -> HostBank:
    """The bank without the router. Raises SpecError for a kernel that is missing, misshapen or not finite."""
    arrays = {name: leaf.materialise() for name, leaf in bank.items() if hasattr(leaf, "materialise")}
    arrays.pop("router", None)
    kernels = {name: np.asarray(array) for name, array in arrays.items()}
    if missing := [name for name in ("up", "down") if name not in kernels]:
        raise SpecError(f"a bank needs the kernels 'up' and 'down'; {missing} are not among {sorted(bank)}.")
    shape = kernels["up"].shape
    for name, kernel in kernels.items():
        wanted = (shape[0], shape[2], shape[1]) if name == "down" else shape
        if kernel.ndim != 3 or kernel.shape != wanted:
            raise SpecError(
                f"{name} has shape {kernel.shape}, but 'up' {shape}: of a bank 'up' and 'gate' are [E D F], 'down' is [E F D]."
            )
        for expert, one in enumerate(kernel):
            if not np.all(np.isfinite(one)):
                raise SpecError(f"{name}: the kernel of expert {expert} holds NaN or infinite values; repair it first.")
    biases = {name: np.asarray(leaf) for name, leaf in bank.items() if name not in kernels and name != "router"}
    return HostBank(kernels, arrays, biases, num_params(bank))


def num_params(bank: dict[str, Any]) -> int:
    """Parameters of all leaves and biases, by the leaves' own count where they have one. The router does not count."""
    return sum(_leaf_size(leaf) for name, leaf in bank.items() if name != "router")


def _leaf_size(leaf: Any) -> int:
    return leaf.num_params() if hasattr(leaf, "num_params") else sum(array.size for array in jax.tree.leaves(leaf))


def unchanged(bank: dict[str, Any]) -> dict[str, Any]:
    """The bank as it is, without the router."""
    return {name: leaf for name, leaf in bank.items() if name != "router"}


def check_reachable(method: str, num_params: int, smallest: int, way_out: str) -> None:
    """Raises SpecError when the budget is below the smallest that the method can meet."""
    if num_params < smallest:
        raise SpecError(f"{method}: num_params={num_params} is not reachable; the smallest is {smallest} ({way_out}).")


def check_merged_reachable(method: str, host: HostBank, num_params: int, merged: int) -> None:
    """Raises SpecError when the budget is below that of `merged` experts as small as they get, with all biases."""
    least = host.num_biases + merged * host.least_size
    check_reachable(method, num_params, least, f"{merged} merged experts as small as they get, and the biases")


def of_leaf(statistics: Statistics, name: str, field: str, *, kind: str, why: str) -> np.ndarray:
    """One field of the statistics of `name`, as it is stored. Raises SpecError where it is missing or not finite."""
    leaf = statistics.get(name, LeafStatistics())
    if getattr(leaf, field) is None:
        raise SpecError(f"the statistics have no {field!r} of {name!r}, {why}; collect the kind {kind!r} for it.")
    value = np.asarray(getattr(leaf, field))
    if not all(np.all(np.isfinite(part)) for part in (value if value.ndim == 3 else [value])):
        raise SpecError(
            f"the statistics of {name!r}: {field!r} holds NaN or infinite values; look at the data behind them."
        )
    return value


def activation_counts(statistics: Statistics, num_experts: int) -> Float[np.ndarray, "E"]:
    """Rows that each expert received. Raises SpecError where they are missing or of another number of experts."""
    count = of_leaf(statistics, "up", "count", kind="rows", why="the frequency by which experts are merged")
    count = count.astype(np.float64)
    if count.shape != (num_experts,):
        raise SpecError(
            f"the statistics of 'up' count rows of shape {count.shape}, but the bank has {num_experts} experts."
        )
    return count


def second_moments(statistics: Statistics, name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "E D D"]:
    """Of what each expert's kernel `name` of `shape` [E D F] read. Raises SpecError where they are missing or do not fit."""
    moments = of_leaf(statistics, name, "second_moment", kind="second_moment", why="what the experts read")
    if moments.shape != (shape[0], shape[1], shape[1]):
        raise SpecError(
            f"the statistics of {name!r} hold second moments of shape {moments.shape}, but its kernels are {shape}."
        )
    return moments


def averaging(count: Float[np.ndarray, "E"], index: tuple[int, ...]) -> Float[np.ndarray, "G E"]:
    """Row g: the weights of the experts e with index[e] = g, their share of the group's rows; equal where it has none."""
    weight = np.zeros((max(index) + 1, len(index)))
    for expert, group in enumerate(index):
        weight[group, expert] = count[expert]
    for row, group in zip(weight, range(len(weight)), strict=True):
        if not row.sum():
            row[np.asarray(index) == group] = 1.0
    return weight / weight.sum(1, keepdims=True)


def indexed_dense(host: HostBank, name: str, kernels: list[np.ndarray], index: tuple[int, ...]) -> Indexed:
    """The dense kernels of the merged experts, expert e's being number index[e]."""
    return Indexed(Dense(jnp.asarray(np.stack([kernel.astype(host.dtype(name)) for kernel in kernels]))), index)


def spread(units: int, energies: list[np.ndarray]) -> list[int]:
    """How many of `units` each entry gets: equally many, the remainder to those whose next energy is largest."""
    base = min(units // len(energies), *(len(energy) for energy in energies))
    shares = [base] * len(energies)
    following = [energy[base] if base < len(energy) else -np.inf for energy in energies]
    for entry in np.argsort(following, kind="stable")[::-1][: units - base * len(energies)]:
        if np.isfinite(following[entry]):
            shares[int(entry)] += 1
    return shares
