"""The next token from the logits: the most likely one, or one drawn by temperature, from the k best, from a nucleus.

Source: Fan et al. 2018, "Hierarchical Neural Story Generation", section 5 (top-k); Holtzman et al. 2020, "The Curious Case of
    Neural Text Degeneration", section 3.1 (top-p, the nucleus).
Deviations: of tokens that are exactly as likely as the last one within top-k, all are kept. Temperature comes first, then
    top-k, then top-p among what is left.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextToken:
    """temperature: logits are divided by it; 0: always the most likely token (of equals the first), nothing is drawn.

    top_k: only the k most likely tokens; top_p: of the rest only the fewest whose probabilities sum to p or more (one at
        least); None: all of them.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise SpecError(f"temperature={self.temperature} must be 0 (the most likely token) or above, and finite.")
        if self.top_k is not None and self.top_k < 1:
            raise SpecError(f"top_k={self.top_k} must be at least 1, or None for all tokens.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SpecError(f"top_p={self.top_p} must be above 0 and at most 1, or None for all tokens.")
        if self.greedy and (self.top_k, self.top_p) != (None, None):
            raise SpecError(
                "top_k and top_p say what is drawn from; temperature=0 draws nothing. Give a temperature, such as 1."
            )

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn, so that no key is needed."""
        return self.temperature == 0

    def choose(self, logits: Float[Array, "B N"], key: PRNGKeyArray | None) -> Int[Array, "B"]:
        """A token for each row. Raises SpecError for a temperature above 0 without a key."""
        if self.greedy:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        if key is None:
            raise SpecError(f"temperature={self.temperature} draws tokens, which needs a key.")
        return jax.random.categorical(key, self.restrict(logits), axis=-1).astype(jnp.int32)

    def restrict(self, logits: Float[Array, "B N"]) -> Float[Array, "B N"]:
        """The logits of the distribution that is drawn from: -inf for the tokens that are left out."""
        logits = logits.astype(jnp.float32) / self.temperature
        if self.top_k is not None:
            least = jax.lax.top_k(logits, min(self.top_k, logits.shape[-1]))[0][:, -1:]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        if self.top_p is not None:
            ranked = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
            probability = jax.nn.softmax(ranked, axis=-1)
            before = jnp.cumsum(probability, axis=-1) - probability  # of all that are likelier
            least = jnp.where(before < self.top_p, ranked, jnp.inf).min(axis=-1, keepdims=True)
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        return logits


GREEDY = NextToken()
