"""What banks of factorised experts have in common: an expert is an MLP or a SwiGLU, its kernels are leaves of some type.

The form says what is computed, the leaf how; a bank says how its leaves are drawn and what they cost.
Source: ours.
"""

import abc
import dataclasses
from typing import Any, Literal

from jax.nn import initializers
from jaxtyping import Array, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.core.rng import named
from moejax.experts.mlp import MlpExperts
from moejax.experts.swiglu import SwigluExperts
from moejax.linear.dense import Dense, init_dense


@dataclasses.dataclass(frozen=True, kw_only=True)
class FactorisedExperts(abc.ABC):
    """activation(x up + up_bias) down + down_bias; gated: (silu(x gate) * (x up)) down, without biases.

    expert_dim: hidden width F. activation, dropout_rate (in training only): of the form with biases.
    equal_init: all experts start as copies of one.
    Raises SpecError for a width below 1, a rate outside [0, 1), or dropout in the gated form.
    """

    expert_dim: int
    gated: bool = False
    activation: Literal["gelu", "gelu_exact", "relu", "silu"] = "gelu"
    dropout_rate: float = 0.0
    equal_init: bool = False

    def __post_init__(self) -> None:
        if self.gated and self.dropout_rate:
            raise SpecError(f"dropout_rate={self.dropout_rate} needs gated=False: the gated form has no dropout.")
        _ = self.dense_bank  # its own checks

    @property
    def dense_bank(self) -> MlpExperts | SwigluExperts:
        """The bank of dense kernels that computes the same."""
        if self.gated:
            return SwigluExperts(expert_dim=self.expert_dim)
        return MlpExperts(expert_dim=self.expert_dim, activation=self.activation, dropout_rate=self.dropout_rate)

    def init(self, key: PRNGKeyArray, num_experts: int, dim: int) -> dict[str, Any]:
        """A leaf of kernels for 'up' [E D F], 'down' [E F D] and, gated, 'gate'; else 'up_bias' [E F], 'down_bias' [E D]."""
        params: dict[str, Any] = {
            name: self.init_leaf(named(key, name), name, num_experts, inputs, outputs)
            for name, (inputs, outputs) in self.kernels(dim).items()
        }
        if not self.gated:
            for name, (_, width) in self.kernels(dim).items():
                params[f"{name}_bias"] = self._bias(named(key, f"{name}_bias"), num_experts, width)
        return params

    def apply(self, params: Any, x: Layout, *, key: PRNGKeyArray | None = None) -> Layout:
        """Each row through its expert, in the dtype of x."""
        return self.dense_bank.apply(params, x, key=key)

    def materialise(self, params: Any) -> dict[str, Array]:
        """Dense weights up [E D F], down [E F D], and gate [E D F] or up_bias [E F] and down_bias [E D]."""
        return self.dense_bank.materialise(params)

    def num_params(self, num_experts: int, dim: int) -> int:
        """The kernels' by `leaf_params`, and E (F + D) of biases."""
        sizes = self.kernels(dim)
        biases = 0 if self.gated else num_experts * sum(outputs for _, outputs in sizes.values())
        return biases + sum(self.leaf_params(name, num_experts, *size) for name, size in sizes.items())

    def flops_per_token(self, dim: int) -> int:
        """The sum of `leaf_flops` over the kernels."""
        return sum(self.leaf_flops(name, *size) for name, size in self.kernels(dim).items())

    def kernels(self, dim: int) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every kernel."""
        into = ("gate", "up") if self.gated else ("up",)
        return dict.fromkeys(into, (dim, self.expert_dim)) | {"down": (self.expert_dim, dim)}

    def variance(self, inputs: int, outputs: int) -> float:
        """Of a dense kernel's entries: xavier's with biases, lecun's when gated, as the dense banks draw them."""
        return 1 / inputs if self.gated else 2 / (inputs + outputs)

    @abc.abstractmethod
    def init_leaf(self, key: PRNGKeyArray, name: str, num_experts: int, inputs: int, outputs: int) -> Any:
        """The leaf of E kernels [inputs, outputs] called `name`, whose entries have the variance of a dense draw."""

    @abc.abstractmethod
    def leaf_params(self, name: str, num_experts: int, inputs: int, outputs: int) -> int:
        """Its numbers."""

    @abc.abstractmethod
    def leaf_flops(self, name: str, inputs: int, outputs: int) -> int:
        """Its FLOPs per row: products only."""

    def init_dense_leaf(self, key: PRNGKeyArray, num_experts: int, inputs: int, outputs: int) -> Dense:
        """A dense leaf, as the dense bank of this form draws it."""
        initializer = initializers.lecun_normal() if self.gated else initializers.xavier_uniform()
        return init_dense(key, (num_experts, inputs, outputs), initializer, equal=self.equal_init)

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], std: float) -> Array:
        """Normal numbers [E ...], alike for all experts with `equal_init`."""
        return init_dense(key, shape, initializers.normal(std), equal=self.equal_init).kernel

    def _bias(self, key: PRNGKeyArray, num_experts: int, width: int) -> Array:
        return self.draw(key, (num_experts, 1, width), 1e-6)[:, 0]
