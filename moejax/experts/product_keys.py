"""Product-key memories: an expert of the bank is n^2 experts of one hidden unit, of which a token finds its best few by keys.

Source: He 2024, "Mixture of A Million Experts" (PEER), section 2 and algorithm 1; product keys: Lample et al. 2019,
    "Large Memory Layers with Product Keys", section 3.2. `FeedForward(experts=...)` with this bank is the PEER layer.
Deviations: queries are normalised over their own features; PEER's batch norm would make a token's experts depend on the batch.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.layouts import Buffers, Layout, Ragged
from moejax.core.rng import named
from moejax.linear.dense import init_dense
from moejax.linear.epilogue import activate


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProductKeyExperts:
    """y = sum over heads and their K best experts i of g_i activation(u_i . x) v_i; all heads share keys, u and v.

    num_keys: n; the memory has n^2 experts i = (a, b), whose score is q_1 . c_a + q_2 . d_b for a query q = [q_1, q_2].
    num_selected_experts: K of every head; g is the softmax over their scores, or each score's sigmoid by `scores`.
    query_dim: of both halves together. normalise_query: zero mean and unit variance, each head by itself.
    equal_init: all memories start as copies of one.
    Raises SpecError for sizes below 1, K above n^2, or an odd query_dim.
    """

    num_keys: int
    num_heads: int = 1
    num_selected_experts: int = 1
    query_dim: int = 32
    scores: Literal["softmax", "sigmoid"] = "softmax"
    normalise_query: bool = True
    activation: Literal["gelu", "gelu_exact", "relu", "silu"] = "gelu"
    equal_init: bool = False

    def __post_init__(self) -> None:
        for name in ("num_keys", "num_heads", "num_selected_experts"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.num_selected_experts > self.num_keys**2:
            raise SpecError(
                f"num_selected_experts={self.num_selected_experts} exceeds the {self.num_keys**2} experts of "
                f"num_keys={self.num_keys}; select fewer, or give more keys."
            )
        if self.query_dim < 2 or self.query_dim % 2:
            raise SpecError(f"query_dim={self.query_dim} must be even and at least 2: a query has two halves.")

    def init(self, key: PRNGKeyArray, num_experts: int, dim: int) -> dict[str, Any]:
        """'query' [E D H*Q], 'keys_1' and 'keys_2' [E Q/2 n], 'u' and 'v' [E n^2 D], float32."""
        half, n = self.query_dim // 2, self.num_keys
        # v so that the K H experts of a token, of weights 1 / K in a head, write as much as a layer of as many units.
        v_std = (self.num_selected_experts / (self.num_heads * dim)) ** 0.5
        draws = {
            "query": ((dim, self.num_heads * self.query_dim), initializers.lecun_normal()),
            "keys_1": ((half, n), initializers.normal(half**-0.5)),
            "keys_2": ((half, n), initializers.normal(half**-0.5)),
            "u": ((n * n, dim), initializers.normal(dim**-0.5)),
            "v": ((n * n, dim), initializers.normal(v_std)),
        }
        leaves = {
            name: init_dense(named(key, name), (num_experts, *shape), initializer, equal=self.equal_init)
            for name, (shape, initializer) in draws.items()
        }
        return leaves | {name: leaves[name].kernel for name in ("u", "v")}

    def apply(self, params: Any, x: Layout, *, key: PRNGKeyArray | None = None) -> Layout:
        """Each row through the experts that it finds in its memory, in the dtype of x. Nothing is random."""
        del key
        memories = params["u"].shape[0]
        rows = x.tokens.reshape(-1, x.tokens.shape[-1])
        owner, owned = _owners(x, memories)
        score, index = self.retrieve(params, x)
        index = index + (owner * self.num_keys**2)[:, None]
        u, v = (params[name].reshape(-1, rows.shape[-1]).astype(rows.dtype) for name in ("u", "v"))
        hidden = activate(jnp.einsum("MD,MKD->MK", rows, u[index]), self.activation)
        gate = jnp.where(owned[:, None], self._gate(score), 0.0).astype(rows.dtype)
        out = jnp.einsum("MK,MKD->MD", gate * hidden, v[index])
        return dataclasses.replace(x, tokens=out.reshape(*x.tokens.shape[:-1], out.shape[-1]))

    def retrieve(self, params: Any, x: Layout) -> tuple[Float[Array, "M K"], Int[Array, "M K"]]:
        """Scores (float32) and numbers in the memory of the H K experts that each row finds, head after head.

        The K best sums lie among the min(K, n) best of either half: only their pairs are compared.
        """
        n, k = self.num_keys, self.num_selected_experts
        queries = self._queries(params, x)
        halves = (self._scores(params[f"keys_{half + 1}"], queries[..., half, :], x) for half in (0, 1))
        first, second = (
            jax.lax.top_k(scores, min(k, n)) for scores in halves
        )  # each: scores and numbers [M H min(K, n)]
        sums = first[0][..., :, None] + second[0][..., None, :]
        pairs = first[1][..., :, None] * n + second[1][..., None, :]
        score, place = jax.lax.top_k(sums.reshape(*sums.shape[:2], -1), k)
        index = jnp.take_along_axis(pairs.reshape(*pairs.shape[:2], -1), place, axis=-1)
        return score.reshape(score.shape[0], -1), index.reshape(index.shape[0], -1)

    def _queries(self, params: Any, x: Layout) -> Float[Array, "... H 2 halves"]:
        """Of every row, in the layout's shape, float32."""
        queries = params["query"].grouped_matmul(x).tokens.astype(jnp.float32)
        heads = queries.reshape(*queries.shape[:-1], self.num_heads, self.query_dim)
        if self.normalise_query:
            heads = jax.nn.standardize(heads, axis=-1, epsilon=1e-6)
        return heads.reshape(*heads.shape[:-1], 2, -1)

    def _scores(self, keys: Any, queries: Float[Array, "... H halves"], x: Layout) -> Float[Array, "M H n"]:
        """Of all keys of one half; every head is a row of the row's memory."""
        width = queries.shape[-1]
        if isinstance(x, Ragged):
            rows: Layout = Ragged(queries.reshape(-1, width), x.group_sizes * self.num_heads)
        else:
            rows = Buffers(queries.reshape(queries.shape[0], -1, width))
        return keys.grouped_matmul(rows).tokens.reshape(-1, self.num_heads, self.num_keys)

    def _gate(self, score: Float[Array, "M K"]) -> Float[Array, "M K"]:
        if self.scores == "sigmoid":
            return jax.nn.sigmoid(score)
        return jax.nn.softmax(score.reshape(score.shape[0], self.num_heads, -1)).reshape(score.shape)

    def materialise(self, params: Any) -> dict[str, Array]:
        """Query kernel [E D H*Q], both key sets [E Q/2 n], and all experts u, v [E n^2 D]."""
        leaves = {name: params[name].materialise() for name in ("query", "keys_1", "keys_2")}
        return leaves | {name: params[name] for name in ("u", "v")}

    def num_params(self, num_experts: int, dim: int) -> int:
        """E (D H Q + n Q + 2 n^2 D)."""
        n = self.num_keys
        return num_experts * (dim * self.num_heads * self.query_dim + n * self.query_dim + 2 * n * n * dim)

    def flops_per_token(self, dim: int) -> int:
        """2 D H Q for queries, 2 n H Q for scores, 4 H K D for the experts found: it grows with n, not with n^2."""
        retrieval = 2 * self.num_heads * self.query_dim * (dim + self.num_keys)
        return retrieval + 4 * self.num_heads * self.num_selected_experts * dim


def _owners(x: Layout, memories: int) -> tuple[Int[Array, "M"], Array]:
    """The memory of every row (the last for rows of nobody), and whether it has one."""
    if not isinstance(x, Ragged):
        rows = x.tokens.shape[0] * x.tokens.shape[1]
        return jnp.repeat(jnp.arange(memories), x.tokens.shape[1]), jnp.ones((rows,), bool)
    rows = jnp.arange(x.tokens.shape[0])
    owner = jnp.searchsorted(jnp.cumsum(x.group_sizes), rows, side="right")
    return jnp.minimum(owner, memories - 1), owner < memories


EXAMPLES = (
    ProductKeyExperts(num_keys=3, num_heads=2, num_selected_experts=2, query_dim=4),
    ProductKeyExperts(num_keys=2, num_selected_experts=4, query_dim=2, scores="sigmoid", activation="relu"),
    ProductKeyExperts(num_keys=4, num_selected_experts=3, query_dim=6, normalise_query=False, equal_init=True),
)
