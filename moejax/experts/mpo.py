"""Experts as matrix product operators: chains of small tensors, of which all experts share the central one.

Source: Gao et al. 2022, "Parameter-Efficient Mixture-of-Experts Architecture for Pre-trained Language Models" (MPOE),
    the shared central tensor and the gradient mask.
Deviations: trained from scratch, where MPOE decomposes pre-trained kernels (`linear.mpo.decompose`). The mask is drawn from
    the layer's training key, once per call and for all kernels of the bank together; merged experts (a `Merge` plan) have
    dense kernels and no mask. How MPOE chooses its modes is not known here: they are as even as the widths allow.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.core.rng import named
from moejax.experts.factorised import FactorisedExperts
from moejax.linear.mpo import Mpo, balanced_modes, tensor_shapes


@dataclasses.dataclass(frozen=True, kw_only=True)
class MpoExperts(FactorisedExperts):
    """Every kernel is an Mpo leaf of `num_tensors` tensors.

    bond_dim: the largest bond; None for bonds that can rebuild every kernel.
    central_mask_rate: the share of training calls in which the central tensors get no gradient, because all experts send
        theirs there and only their own to the others. Evaluation has no mask.
    Raises SpecError for fewer than 2 tensors, a bond below 1, or a rate outside [0, 1].
    """

    num_tensors: int = 3
    bond_dim: int | None = None
    central_mask_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_tensors < 2:
            raise SpecError(f"num_tensors={self.num_tensors} must be at least 2: a central one and what experts own.")
        if self.bond_dim is not None and self.bond_dim < 1:
            raise SpecError(f"bond_dim={self.bond_dim} must be at least 1, or None.")
        if not 0 <= self.central_mask_rate <= 1:
            raise SpecError(
                f"central_mask_rate={self.central_mask_rate} must lie in [0, 1]: a share of training calls."
            )

    def apply(self, params: Any, x: Layout, *, key: PRNGKeyArray | None = None) -> Layout:
        """Each row through its expert, in the dtype of x. With a key the central tensors may be cut from the gradient."""
        if key is not None and self.central_mask_rate > 0:
            trains = jax.random.bernoulli(named(key, "central"), 1 - self.central_mask_rate)
            params = {name: _gated(leaf, trains) for name, leaf in params.items()}
        return super().apply(params, x, key=key)

    def shapes(self, inputs: int, outputs: int) -> tuple[tuple[int, int, int, int], ...]:
        """(bond, d, f, next bond) of the tensors of a kernel [inputs, outputs]."""
        modes = (balanced_modes(width, self.num_tensors) for width in (inputs, outputs))
        return tensor_shapes(*modes, bond_dim=self.bond_dim)

    def init_leaf(self, key: PRNGKeyArray, name: str, num_experts: int, inputs: int, outputs: int) -> Mpo:
        """Tensors that keep the variance along the chain, so that the kernel has that of a dense draw."""
        share = self.variance(inputs, outputs) ** (0.5 / self.num_tensors)
        tensors = []
        for k, (bond, depth, width, after) in enumerate(self.shapes(inputs, outputs)):
            experts = 1 if k == self._central else num_experts
            flat = self.draw(named(key, f"tensor_{k}"), (experts, bond * depth, width * after), share * bond**-0.5)
            tensors.append(flat.reshape(experts, bond, depth, width, after))
        central = tensors.pop(self._central)[0]
        return Mpo(tuple(tensors), central)

    def leaf_params(self, name: str, num_experts: int, inputs: int, outputs: int) -> int:
        """The size of the central tensor, and E times the sizes of the others."""
        sizes = [a * b * c * d for a, b, c, d in self.shapes(inputs, outputs)]
        central = sizes.pop(self._central)
        return central + num_experts * sum(sizes)

    def leaf_flops(self, name: str, inputs: int, outputs: int) -> int:
        """The sum over tensors of 2 done rest bond d f next: `done` outputs are made before it, `rest` inputs wait."""
        rest, done, flops = inputs, 1, 0
        for bond, depth, width, after in self.shapes(inputs, outputs):
            rest //= depth
            flops += 2 * done * rest * bond * depth * width * after
            done *= width
        return flops

    @property
    def _central(self) -> int:
        return (self.num_tensors - 1) // 2


def _gated(leaf: Any, trains: Bool[Array, ""]) -> Any:
    """The leaf with a central tensor of the same value, whose gradient is zero unless `trains`."""
    return dataclasses.replace(leaf, central=stop_unless(trains, leaf.central)) if isinstance(leaf, Mpo) else leaf


def stop_unless(trains: Bool[Array, ""], value: Float[Array, "..."]) -> Float[Array, "..."]:
    """`value`; its gradient is exactly zero where `trains` is False."""
    return jnp.where(trains, value, jax.lax.stop_gradient(value))


EXAMPLES = (
    MpoExperts(expert_dim=6, bond_dim=3),
    MpoExperts(expert_dim=8, num_tensors=2, central_mask_rate=0.5, gated=True),
    MpoExperts(expert_dim=4, num_tensors=4, bond_dim=2, equal_init=True),
)
