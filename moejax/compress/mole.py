"""MoLE: experts behind one shared projection to a latent space, by the singular value decomposition of all of them at once.

Source: Liu et al. 2025, "Beyond Standard MoE: Mixture of Latent Experts for Resource-Efficient Language Models":
    W_i = A_i B, B shared, the best B from the stacked kernels; up and gate read one latent space.
Deviations: the projection out of the hidden layer is shared as well (`share_down`), so that both sides of an expert are
    latent, as in descend-communicate-ascend. Two phases where second moments are given: the shared factor is the best
    for what the experts read together, then each expert's own factor is the best for what it read itself; the paper keeps
    activations between its phases in its own way. Second moments get 1e-8 of their mean on the diagonal, so that directions
    that no row had are kept as far as ranks allow. Each leaf holds its copy of what it shares with another leaf, and counts it.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from moejax.compress import expert_bank
from moejax.compress.expert_bank import HostBank
from moejax.compress.statistics import Statistics
from moejax.linear.shared_factor import SharedFactor

RIDGE = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoLE:
    """share_down: factorise 'down', too; else it stays dense. weighted: by second moments (None: where there are some)."""

    share_down: bool = True
    weighted: bool | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Second moments, where they were asked for."""
        return ("second_moment",) if self.weighted else ()

    def compress_bank(self, bank: dict[str, Any], statistics: Statistics, *, num_params: int) -> dict[str, Any]:
        """Shared factors on the side of D. Shapes and errors: see `contract.BankMethod`."""
        host = expert_bank.read(bank)
        if num_params >= host.num_params:
            return expert_bank.unchanged(bank)
        inputs = [name for name in host.kernels if name != "down"]
        sides = [inputs, ["down"]] if self.share_down else [inputs]
        kept = host.num_biases + (0 if self.share_down else host.kernels["down"].size)
        costs = [len(side) * _rank_cost(host) for side in sides]
        expert_bank.check_reachable("mole", num_params, kept + sum(costs), "rank 1 on every side, and what stays dense")
        read = self._moments(host, statistics, "up")
        bases = [_input_basis(host, inputs, read)]
        if self.share_down:
            bases.append(_output_basis(host, self._moments(host, statistics, "down")))
        ranks = _ranks(num_params - kept, costs, [energy for _, energy in bases])
        leaves = {name: _entering(host, name, bases[0][0][:, : ranks[0]], read) for name in inputs}
        if self.share_down:
            leaves["down"] = _leaving(host, bases[1][0][:, : ranks[1]])
        rest = {name: leaf for name, leaf in expert_bank.unchanged(bank).items() if name not in leaves}
        return leaves | rest

    def _moments(self, host: HostBank, statistics: Statistics, name: str) -> Float[np.ndarray, "E D D"] | None:
        given = name in statistics and statistics[name].second_moment is not None
        if self.weighted is False or not (given or self.weighted):
            return None
        return expert_bank.second_moments(statistics, name, host.kernels[name].shape)


def _rank_cost(host: HostBank) -> int:
    """One rank of one kernel: a vector of D that all share, and one of F for each expert."""
    experts, depth, width = host.kernels["up"].shape
    return depth + experts * width


def _input_basis(
    host: HostBank, names: list[str], moments: Float[np.ndarray, "E D D"] | None
) -> tuple[Float[np.ndarray, "D R"], Float[np.ndarray, "R"]]:
    """Columns in falling order, of which the first R are the best shared u [D R], and what each takes off the squared error."""
    depth = host.kernels["up"].shape[1]
    root, inverse = np.eye(depth), np.eye(depth)
    if moments is not None:
        values, vectors = np.linalg.eigh(_pooled(moments))
        root, inverse = (vectors * values**0.5) @ vectors.T, (vectors * values**-0.5) @ vectors.T
    gram = np.zeros((depth, depth))
    for name in names:
        for expert in range(host.num_experts):
            weighed = root @ host.kernel(name, expert)
            gram += weighed @ weighed.T
    energy, basis = np.linalg.eigh(gram)
    return inverse @ basis[:, ::-1], np.maximum(energy[::-1], 0.0)


def _output_basis(
    host: HostBank, moments: Float[np.ndarray, "E F F"] | None
) -> tuple[Float[np.ndarray, "D R"], Float[np.ndarray, "R"]]:
    """The same for the v [R D] of 'down', transposed; here moments of each expert's own give the exact best."""
    gram = np.zeros((host.kernels["down"].shape[2],) * 2)
    scale = 0.0 if moments is None else float(np.mean([np.trace(m, dtype=np.float64) / len(m) for m in moments]))
    for expert in range(host.num_experts):
        kernel = host.kernel("down", expert)
        gram += kernel.T @ (kernel if moments is None else _ridged(moments[expert], scale) @ kernel)
    energy, basis = np.linalg.eigh(gram)
    return basis[:, ::-1], np.maximum(energy[::-1], 0.0)


def _pooled(moments: Float[np.ndarray, "E D D"]) -> Float[np.ndarray, "D D"]:
    """What all experts read together."""
    total = np.zeros(moments.shape[1:])
    for moment in moments:
        total += moment
    return _ridged(total, np.trace(total) / len(total))


def _ridged(moment: np.ndarray, scale: float) -> Float[np.ndarray, "D D"]:
    """In float64 with RIDGE times the scale on the diagonal; the identity where the scale is zero."""
    if not scale:
        return np.eye(len(moment))
    ridged = moment.astype(np.float64)
    ridged.flat[:: len(moment) + 1] += RIDGE * scale
    return ridged


def _entering(
    host: HostBank, name: str, basis: Float[np.ndarray, "D R"], moments: Float[np.ndarray, "E D D"] | None
) -> SharedFactor:
    """Orthonormal u in the span of the basis; v_e the best for the rows that the experts, then that expert e itself, read."""
    u = np.linalg.qr(basis)[0]
    pooled = None if moments is None else _pooled(moments)
    dtype, own = host.dtype(name), []
    for expert in range(host.num_experts):
        kernel = host.kernel(name, expert)
        if moments is None or pooled is None:
            own.append((u.T @ kernel).astype(dtype))
            continue
        first = np.linalg.solve(u.T @ pooled @ u, u.T @ pooled @ kernel)
        seen = u.T @ moments[expert].astype(np.float64)
        own.append((first + _pseudo_inverse(seen @ u) @ (seen @ (kernel - u @ first))).astype(dtype))
    return SharedFactor(jnp.asarray(u.astype(dtype)), jnp.asarray(np.stack(own)))


def _leaving(host: HostBank, basis: Float[np.ndarray, "D R"]) -> SharedFactor:
    dtype = host.dtype("down")
    own = np.stack([(host.kernel("down", expert) @ basis).astype(dtype) for expert in range(host.num_experts)])
    return SharedFactor(jnp.asarray(own), jnp.asarray(basis.T.astype(dtype)))


def _pseudo_inverse(moment: Float[np.ndarray, "R R"]) -> Float[np.ndarray, "R R"]:
    """On the directions that hold more than RIDGE of the largest; zero on the others, which so stay as they were."""
    values, vectors = np.linalg.eigh(moment)
    seen = values > RIDGE * max(values[-1], 0.0)
    return (vectors[:, seen] / values[seen]) @ vectors[:, seen].T


def _ranks(budget: int, costs: list[int], energies: list[np.ndarray]) -> list[int]:
    """The rank of each side: 1, then one more where it takes most off the relative squared error per parameter."""
    ranks = [1] * len(costs)
    gains = [
        energy / max(energy.sum(), np.finfo(float).tiny) / cost for energy, cost in zip(energies, costs, strict=True)
    ]
    left = budget - sum(costs)
    while open_sides := [side for side, cost in enumerate(costs) if cost <= left and ranks[side] < len(energies[side])]:
        best = max(open_sides, key=lambda side: gains[side][ranks[side]])
        ranks[best] += 1
        left -= costs[best]
    return ranks


EXAMPLES = (MoLE(), MoLE(share_down=False))
