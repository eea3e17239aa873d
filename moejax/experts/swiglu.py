"""Experts with a gated hidden layer and no biases, as in most language models.

Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6 (FFN_SwiGLU).
Deviations: the paper gives no initialisation; kernels are lecun-normal, or xavier-uniform as in the released DiT-MoE.
"""

import dataclasses
from typing import Any, Literal

from jax.nn import initializers
from jaxtyping import Array, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.core.rng import named
from moejax.linear.dense import Dense, init_dense
from moejax.linear.hidden_layer import gated_hidden_layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwigluExperts:
    """y = (silu(x gate) * (x up)) down.

    expert_dim: hidden width F. equal_init: all experts start as copies of one. kernel_init: see the file's docstring.
    Raises SpecError for a width below 1.
    """

    expert_dim: int
    equal_init: bool = False
    kernel_init: Literal["lecun_normal", "xavier_uniform"] = "lecun_normal"

    def __post_init__(self) -> None:
        if self.expert_dim < 1:
            raise SpecError(f"expert_dim={self.expert_dim} must be at least 1.")

    def init(self, key: PRNGKeyArray, num_experts: int, dim: int) -> dict[str, Dense]:
        """{'gate': Dense [E D F], 'up': Dense [E D F], 'down': Dense [E F D]}, float32."""
        sizes = {"gate": (dim, self.expert_dim), "up": (dim, self.expert_dim), "down": (self.expert_dim, dim)}
        initializer = getattr(initializers, self.kernel_init)()
        return {
            name: init_dense(named(key, name), (num_experts, *size), initializer, equal=self.equal_init)
            for name, size in sizes.items()
        }

    def apply(self, params: Any, x: Layout, *, key: PRNGKeyArray | None = None) -> Layout:
        """Each row through its expert, in the dtype of x. Nothing is random: the key is not used."""
        del key
        return gated_hidden_layer(params["gate"], params["up"], params["down"], x)

    def materialise(self, params: Any) -> dict[str, Array]:
        """Kernels gate [E D F], up [E D F], down [E F D]."""
        return {name: leaf.materialise() for name, leaf in params.items()}

    def num_params(self, num_experts: int, dim: int) -> int:
        """3 E D F."""
        return 3 * num_experts * dim * self.expert_dim

    def flops_per_token(self, dim: int) -> int:
        """6 D F: three products of 2 D F."""
        return 6 * dim * self.expert_dim


EXAMPLES = (SwigluExperts(expert_dim=6), SwigluExperts(expert_dim=4, kernel_init="xavier_uniform"))
