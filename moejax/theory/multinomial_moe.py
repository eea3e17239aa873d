"""Mixtures of multinomial logistic experts under a softmax gate: density, sampler, Fisher information, and what cannot be told apart.

p(s | x) = sum_i g_i(x) softmax_s(a_i + b_i x), s one of N classes, with g a softmax of b1_i M(x) + b0_i, M(x) = x in the standard gate and
bounded in the modified one.
Source: Nguyen et al. 2024 ("A general theory for softmax gating multinomial logistic mixture of experts"), equations 1 and, for the
    modified gate, section 4.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from moejax.core.errors import SpecError
from moejax.routing.gates.linear import Linear

_GATE = Linear(bias=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultinomialMoE:
    """gate_input: M of the gate's input. Parameters: {'gate': of the gate 'linear' with D = 1 and a bias, 'intercept': a [E N-1],
    'slope': b [E N-1]}, float64; by convention those of the last class are zero, as are the last expert's gates.
    """

    gate_input: Literal["identity", "tanh"] = "identity"

    def log_density(self, params: Any, x: Float[Array, "_"]) -> Float[Array, "_ N"]:
        """Of every class given x."""
        inputs = jnp.tanh(x) if self.gate_input == "tanh" else x
        gates = jax.nn.log_softmax(_GATE.logits(params["gate"], inputs[:, None]))
        scores = params["intercept"][None] + x[:, None, None] * params["slope"][None]
        experts = jax.nn.log_softmax(jnp.pad(scores, ((0, 0), (0, 0), (0, 1))))
        return jax.scipy.special.logsumexp(gates[:, :, None] + experts, axis=1)

    def probabilities(self, params: Any, x: Float[np.ndarray, "_"]) -> Float[np.ndarray, "_ N"]:
        """Of every class given x, on the host."""
        with jax.enable_x64(True):
            return np.exp(np.asarray(_log_density(self, jax.tree.map(jnp.asarray, params), jnp.asarray(x))))

    def counts(
        self, params: Any, x: Float[np.ndarray, "_"], num_examples: int, draw: np.random.Generator
    ) -> Int[np.ndarray, "_ N"]:
        """How many of n observations fall on each input, all equally likely, and class: all that the likelihood needs."""
        cells = self.probabilities(params, x) / len(x)
        return draw.multinomial(num_examples, cells.reshape(-1) / cells.sum()).reshape(cells.shape)

    def fisher_information(self, params: Any, x: Float[np.ndarray, "_"]) -> Float[np.ndarray, "_ _"]:
        """Of one observation at inputs that are all equally likely [P P]; P counts as `jax.flatten_util` orders them."""
        with jax.enable_x64(True):
            flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
            scores = jax.jacfwd(lambda theta: self.log_density(unravel(theta), jnp.asarray(x)))(flat)
            weight = jnp.exp(self.log_density(unravel(flat), jnp.asarray(x))) / len(x)
            return np.asarray(jnp.einsum("mnp,mn,mnq->pq", scores, weight, scores))


def split_constant_expert(params: Any, expert: int, share: float, probabilities: Float[np.ndarray, "N"]) -> Any:
    """The same density with one expert more: a constant expert (slope zero), replaced by two of the same gate kernel.

    The first has these probabilities and `share` of the mass; the second has what is left, (q - share * probabilities) / (1 - share),
    of the expert's own probabilities q. The new expert stands first. Any share and probabilities do for which what is left is
    positive: a continuum that no observation tells apart, whatever the gate's input.
    Raises SpecError where the expert is not constant or something negative is left. Source: ours.
    """
    own = np.append(params["intercept"][expert], 0.0)
    q = np.exp(own - np.logaddexp.reduce(own))
    left = (q - share * probabilities) / (1 - share)
    if np.any(params["slope"][expert] != 0) or np.any(left <= 0) or not 0 < share < 1:
        raise SpecError(
            f"expert {expert} with slope {params['slope'][expert]} and probabilities {q} has no split into share={share} of "
            f"{probabilities}: it must be constant, and every class keep a positive probability."
        )
    gate, first, second = params["gate"], np.log(probabilities), np.log(left)
    bias = np.concatenate([gate["bias"][[expert]] + np.log(share), gate["bias"]])
    bias[expert + 1] += np.log1p(-share)
    intercept = np.concatenate([(first[:-1] - first[-1])[None], params["intercept"]])
    intercept[expert + 1] = second[:-1] - second[-1]
    return {
        "gate": {"bias": bias, "kernel": np.concatenate([gate["kernel"][:, [expert]], gate["kernel"]], axis=1)},
        "intercept": intercept,
        "slope": np.concatenate([params["slope"][[expert]], params["slope"]]),
    }


@functools.partial(jax.jit, static_argnums=0)
def _log_density(model: MultinomialMoE, params: Any, x: Float[Array, "_"]) -> Float[Array, "_ N"]:
    return model.log_density(params, x)
