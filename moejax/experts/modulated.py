"""One shared feed-forward layer, of which every expert is a modulation: features scaled by gamma_e and shifted by beta_e.

Source: Zhang et al. 2024, "Efficient Deweather Mixture-of-Experts with Uncertainty-aware Feature-wise Linear Modulation"
    (MoFME), the feature-modulated expert; Perez et al. 2018, "FiLM", equations 1 and 2.
Deviations: which features are modulated is an option. MoFME's uncertainty-aware router (several passes through the router
    under dropout, weights calibrated by the variance among them) is not taken over: any router of moejax/routing chooses.
    Modulations are drawn around one and zero; the shared layer is the dense bank's.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from moejax.core.dropout import dropout
from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.core.rng import maybe_named, named
from moejax.experts.factorised import FactorisedExperts
from moejax.linear.epilogue import add_bias
from moejax.linear.layout_products import times_own_scale
from moejax.linear.shared import Shared


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModulatedExperts(FactorisedExperts):
    """down(activation(up(x))) with one up [D F] and one down [F D] for all; gamma_e and beta_e are all that an expert owns.

    features: which are modulated: 'input' (x itself), 'hidden' (after the activation) or 'output'.
    modulation_std: of gamma around 1 and beta around 0 at the start; 0 starts all experts as the shared layer.
    Extra parameters of an expert: 2 D, or 2 F for 'hidden'. The gated form is not available.
    Raises SpecError for gated=True or a negative modulation_std.
    """

    features: Literal["input", "hidden", "output"] = "input"
    modulation_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gated:
            raise SpecError("gated=True is not available for modulated experts; leave it out.")
        if self.modulation_std < 0:
            raise SpecError(f"modulation_std={self.modulation_std} must not be negative.")

    def init(self, key: PRNGKeyArray, num_experts: int, dim: int) -> dict[str, Any]:
        """'up' [D F], 'down' [F D] and their biases [1 F], [1 D], shared; 'gamma' and 'beta' [E D] ([E F] for 'hidden')."""
        params: dict[str, Any] = {}
        for name, size in self.kernels(dim).items():
            params[name] = self.init_leaf(named(key, name), name, num_experts, *size)
            bias = self.draw(named(key, f"{name}_bias"), (1, 1, size[1]), 1e-6)[0]
            params[f"{name}_bias"] = Shared(bias, num_experts)
        shape = (num_experts, 1, self._width(dim))
        params["gamma"] = 1.0 + self.draw(named(key, "gamma"), shape, self.modulation_std)[:, 0]
        params["beta"] = self.draw(named(key, "beta"), shape, self.modulation_std)[:, 0]
        return params

    def apply(self, params: Any, x: Layout, *, key: PRNGKeyArray | None = None) -> Layout:
        """Each row through the shared layer, modulated by its expert, in the dtype of x."""
        up_bias, down_bias = (self._shared_bias(params, name) for name in ("up_bias", "down_bias"))
        x = self._modulate(params, x, "input")
        hidden = params["up"].grouped_matmul(x, bias=up_bias, activation=self.activation)
        hidden = self._dropout(self._modulate(params, hidden, "hidden"), key, "hidden")
        out = self._modulate(params, params["down"].grouped_matmul(hidden, bias=down_bias), "output")
        return self._dropout(out, key, "output")

    def materialise(self, params: Any) -> dict[str, Array]:
        """The MLP that each expert is: up [E D F], up_bias [E F], down [E F D], down_bias [E D]."""
        gamma, beta = params["gamma"], params["beta"]
        weights = {name: self._shared_bias(params, name) for name in ("up_bias", "down_bias")}
        for name in ("up", "down"):
            kernel = params[name].materialise()
            weights[name] = jnp.broadcast_to(kernel, (gamma.shape[0], *kernel.shape[-2:]))
        if self.features == "output":
            weights["down"] = weights["down"] * gamma[:, None, :]
            weights["down_bias"] = weights["down_bias"] * gamma + beta
            return weights
        name = "up" if self.features == "input" else "down"  # the kernel that reads what is modulated
        weights[f"{name}_bias"] = weights[f"{name}_bias"] + jnp.einsum("ED,EDF->EF", beta, weights[name])
        weights[name] = gamma[:, :, None] * weights[name]
        return weights

    def num_params(self, num_experts: int, dim: int) -> int:
        """2 D F + F + D, and 2 E D of modulations (2 E F for 'hidden')."""
        sizes = self.kernels(dim)
        shared = sum(self.leaf_params(name, num_experts, *size) + size[1] for name, size in sizes.items())
        return shared + 2 * num_experts * self._width(dim)

    def init_leaf(self, key: PRNGKeyArray, name: str, num_experts: int, inputs: int, outputs: int) -> Shared:
        """A kernel without an expert axis."""
        return Shared(self.init_dense_leaf(key, 1, inputs, outputs).kernel[0], num_experts)

    def leaf_params(self, name: str, num_experts: int, inputs: int, outputs: int) -> int:
        """D F, for all experts together."""
        return inputs * outputs

    def leaf_flops(self, name: str, inputs: int, outputs: int) -> int:
        """2 inputs outputs."""
        return 2 * inputs * outputs

    def _width(self, dim: int) -> int:
        return self.expert_dim if self.features == "hidden" else dim

    def _modulate(self, params: Any, x: Layout, features: str) -> Layout:
        if features != self.features:
            return x
        return add_bias(times_own_scale(x, params["gamma"]), params["beta"])

    def _shared_bias(self, params: Any, name: str) -> Float[Array, "E F"]:
        rows = params[name].materialise()
        rows = rows.reshape(-1, rows.shape[-1])
        return jnp.broadcast_to(rows, (params["gamma"].shape[0], rows.shape[-1]))

    def _dropout(self, x: Layout, key: PRNGKeyArray | None, name: str) -> Layout:
        return dataclasses.replace(x, tokens=dropout(x.tokens, self.dropout_rate, key=maybe_named(key, name)))


EXAMPLES = (
    ModulatedExperts(expert_dim=6),
    ModulatedExperts(expert_dim=4, features="hidden", modulation_std=0.1, activation="relu"),
    ModulatedExperts(expert_dim=4, features="output", equal_init=True),
)
