"""Experts with one hidden layer and biases: the MLP of a Vision Transformer, once per expert.

Source: Riquelme et al. 2021, "Scaling Vision with Sparse Mixture of Experts", section 2.2 and google-research/vmoe
    (GELU, xavier-uniform kernels, biases from N(0, 1e-6), dropout after the activation and after the output).
Deviations: 'gelu' is the tanh approximation, the default of Flax and so of V-MoE; 'gelu_exact' is the erf form.
"""

import dataclasses
from typing import Any, Literal

from jax.nn import initializers
from jaxtyping import Array, PRNGKeyArray

from moejax.core.dropout import dropout
from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.core.rng import maybe_named, named
from moejax.linear.dense import Dense, init_dense
from moejax.linear.hidden_layer import hidden_layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class MlpExperts:
    """y = activation(x up + up_bias) down + down_bias.

    expert_dim: hidden width F. dropout_rate: in training only. equal_init: all experts start as copies of one.
    Raises SpecError for a width below 1 or a rate outside [0, 1).
    """

    expert_dim: int
    activation: Literal["gelu", "gelu_exact", "relu", "silu"] = "gelu"
    dropout_rate: float = 0.0
    equal_init: bool = False

    def __post_init__(self) -> None:
        if self.expert_dim < 1:
            raise SpecError(f"expert_dim={self.expert_dim} must be at least 1.")
        if not 0 <= self.dropout_rate < 1:
            raise SpecError(f"dropout_rate={self.dropout_rate} must be in [0, 1).")

    def init(self, key: PRNGKeyArray, num_experts: int, dim: int) -> dict[str, Any]:
        """{'up': Dense [E D F], 'up_bias': [E F], 'down': Dense [E F D], 'down_bias': [E D]}, float32."""
        xavier, tiny = initializers.xavier_uniform(), initializers.normal(1e-6)

        def kernel(name: str, inputs: int, outputs: int) -> Dense:
            return init_dense(named(key, name), (num_experts, inputs, outputs), xavier, equal=self.equal_init)

        def bias(name: str, width: int) -> Array:
            return init_dense(named(key, name), (num_experts, 1, width), tiny, equal=self.equal_init).kernel[:, 0]

        return {
            "up": kernel("up", dim, self.expert_dim),
            "up_bias": bias("up_bias", self.expert_dim),
            "down": kernel("down", self.expert_dim, dim),
            "down_bias": bias("down_bias", dim),
        }

    def apply(self, params: Any, x: Layout, *, key: PRNGKeyArray | None = None) -> Layout:
        """Each row through its expert, in the dtype of x."""
        if key is None or self.dropout_rate == 0.0:
            biases = {"up_bias": params["up_bias"], "down_bias": params["down_bias"]}
            return hidden_layer(params["up"], params["down"], x, activation=self.activation, **biases)
        hidden = params["up"].grouped_matmul(x, bias=params["up_bias"], activation=self.activation)
        active = dropout(hidden.tokens, self.dropout_rate, key=maybe_named(key, "hidden"))
        hidden = dataclasses.replace(hidden, tokens=active)
        out = params["down"].grouped_matmul(hidden, bias=params["down_bias"])
        return dataclasses.replace(out, tokens=dropout(out.tokens, self.dropout_rate, key=maybe_named(key, "output")))

    def materialise(self, params: Any) -> dict[str, Array]:
        """Weights up [E D F], up_bias [E F], down [E F D], down_bias [E D]."""
        kernels = {name: params[name].materialise() for name in ("up", "down")}
        return kernels | {name: params[name] for name in ("up_bias", "down_bias")}

    def num_params(self, num_experts: int, dim: int) -> int:
        """E (2 D F + F + D)."""
        return num_experts * (2 * dim * self.expert_dim + self.expert_dim + dim)

    def flops_per_token(self, dim: int) -> int:
        """4 D F: two products of 2 D F."""
        return 4 * dim * self.expert_dim


EXAMPLES = (
    MlpExperts(expert_dim=6),
    MlpExperts(expert_dim=4, activation="gelu_exact", dropout_rate=0.25, equal_init=True),
)
