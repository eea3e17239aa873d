"""Experts that live in a latent space: tokens go down once, travel and are computed narrow, and come up once.

Source: Liu et al. 2025, "Beyond Standard MoE: Mixture of Latent Experts" (MoLE), W_i = A_i B with one B for all experts;
    Jin et al. 2025, "BigMac": descend, communicate, communicate, ascend.
Deviations: the router sees the tokens at full width. Gate and up read the same latent token, so that one vector travels.
    Trained from scratch; MoLE's conversion of trained experts lives in moejax/compress.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.rng import named
from moejax.experts.factorised import FactorisedExperts
from moejax.linear.dense import Dense
from moejax.linear.shared import Shared


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentExperts(FactorisedExperts):
    """Experts R -> F -> R between one projection D -> R and one R -> D that all share; tokens are moved at width R.

    rank: the latent width R. ascend: False lets the experts write the full width themselves, R -> F -> D, so that tokens
        travel narrow on the way in only.
    `flops_per_token` counts the expert; `enter` and `leave` take 2 D R each per token, however many experts it meets.
    Raises SpecError for a rank below 1.
    """

    rank: int
    ascend: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 1:
            raise SpecError(f"rank={self.rank} must be at least 1: the latent width that tokens travel in.")

    def init(self, key: PRNGKeyArray, num_experts: int, dim: int) -> dict[str, Any]:
        """The kernels of the experts, and 'descend' [D R] and 'ascend' [R D] without an expert axis."""
        lecun = initializers.lecun_normal()
        params = super().init(key, num_experts, dim)
        params["descend"] = Shared(lecun(named(key, "descend"), (dim, self.rank), jnp.float32), num_experts)
        if self.ascend:
            params["ascend"] = Shared(lecun(named(key, "ascend"), (self.rank, dim), jnp.float32), num_experts)
        return params

    def enter(self, params: Any, x: Float[Array, "... D"]) -> Float[Array, "... R"]:
        """Tokens at the width that they travel in."""
        return params["descend"].matmul(x)

    def leave(self, params: Any, y: Float[Array, "... R"]) -> Float[Array, "... D"]:
        """Combined tokens back at full width."""
        return params["ascend"].matmul(y) if self.ascend else y

    def materialise(self, params: Any) -> dict[str, Array]:
        """Weights of the experts from full width to full width: gate and up [E D F], down [E F D], biases [E F] and [E D]."""
        weights = self.dense_bank.materialise({n: leaf for n, leaf in params.items() if n not in ("descend", "ascend")})
        for name in ("gate", "up"):
            if name in weights:
                weights[name] = jnp.einsum("DR,ERF->EDF", params["descend"].kernel, weights[name])
        if not self.ascend:
            return weights
        out = params["ascend"].kernel
        weights["down"] = jnp.einsum("EFR,RD->EFD", weights["down"], out)
        if "down_bias" in weights:
            weights["down_bias"] = weights["down_bias"] @ out
        return weights

    def kernels(self, dim: int) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every kernel of an expert."""
        sizes = super().kernels(self.rank)
        return sizes if self.ascend else sizes | {"down": (self.expert_dim, dim)}

    def num_params(self, num_experts: int, dim: int) -> int:
        """The experts' and the 2 D R of the shared projections (D R without `ascend`)."""
        return super().num_params(num_experts, dim) + (1 + self.ascend) * dim * self.rank

    def init_leaf(self, key: PRNGKeyArray, name: str, num_experts: int, inputs: int, outputs: int) -> Dense:
        """A dense leaf."""
        return self.init_dense_leaf(key, num_experts, inputs, outputs)

    def leaf_params(self, name: str, num_experts: int, inputs: int, outputs: int) -> int:
        """E inputs outputs."""
        return num_experts * inputs * outputs

    def leaf_flops(self, name: str, inputs: int, outputs: int) -> int:
        """2 inputs outputs."""
        return 2 * inputs * outputs


EXAMPLES = (
    LatentExperts(expert_dim=6, rank=3),
    LatentExperts(expert_dim=4, rank=2, ascend=False, activation="gelu_exact", equal_init=True),
    LatentExperts(expert_dim=4, rank=3, gated=True),
)
