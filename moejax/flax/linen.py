"""`MoE` for Flax Linen: drop it where a feed-forward block was.

    y = MoE(router={"name": "top_k", "num_experts": 8}, experts={"name": "mlp", "expert_dim": 256})(x)

Source: ours; all arithmetic is the functional layer's (`moejax/layers/moe.py`).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moejax.core.contracts import Experts, Router
from moejax.core.outputs import LayerOutput
from moejax.flax.plain import build_layer, fold_sequences, from_plain, initialise, to_plain, with_arrays

Losses = Mapping[str, Any]


class MoE(nn.Module):
    """Any router, experts and dispatch, by spec, config dict or name.

    Collections:
    params: plain nested dicts of arrays under 'router', 'experts' and 'shared'.
    moe_state: what the router keeps without gradients (balancing bias ...); make it mutable when training.
    losses: the router's losses, already weighted, sown when mutable; add `total_loss(variables['losses'])` to yours.
    metrics: load, drops and the like, sown when mutable.
    intermediates: the plan, sown when mutable.

    dtype: dtype of the computation; None: that of x. Routers compute in float32 whatever it is.
    rng_collection: a key in this stream means training (router noise, training capacity, moving state).
    Raises SpecError for misspelt names and fields when first called.
    """

    router: Router | Mapping[str, Any] | str
    experts: Experts | Mapping[str, Any] | str
    dispatch: str = "auto"
    group_size: int | None = None
    shared: Experts | Mapping[str, Any] | str | None = None
    dtype: Any = None
    rng_collection: str = "dropout"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "... T D"],
        *,
        deterministic: bool | None = None,
        token_ids: Int[Array, "... T"] | None = None,
    ) -> Float[Array, "... T D"]:
        """Tokens of the same shape. `deterministic`: None trains where the stream has a key, True never, False must."""
        return self._output(x, deterministic, token_ids).tokens.reshape(x.shape)

    def _output(self, x: Array, deterministic: bool | None, token_ids: Array | None) -> LayerOutput:
        layer = self._layer()
        tokens = fold_sequences(x if self.dtype is None else x.astype(self.dtype))
        params, state = self._variables(layer, x.shape[-1])
        train = self.has_rng(self.rng_collection) if deterministic is None else not deterministic
        key = self.make_rng(self.rng_collection) if train and not self.is_initializing() else None
        ids = None if token_ids is None else token_ids.reshape(tokens.shape[:2])
        out = layer.apply(params, state, tokens, key=key, token_ids=ids)
        if not self.is_initializing():
            self._store(out, moved=key is not None)
        return out

    def _layer(self) -> Any:
        names = ("router", "experts", "dispatch", "group_size", "shared")
        return build_layer({name: getattr(self, name) for name in names})

    def _variables(self, layer: Any, dim: int) -> tuple[Any, Any]:
        key = self.make_rng("params") if self.is_initializing() else None
        fresh = None if key is None else initialise(layer, key, dim)
        if fresh is not None:
            for name, part in with_arrays(to_plain(fresh[0])).items():
                self.param(name, lambda _, part=part: part)
            if state := with_arrays({"router": to_plain(fresh[1])}):
                self.variable("moe_state", "router", lambda: state["router"])
            return fresh
        stored = dict(self.variables.get("params", {}))
        return from_plain(layer, dim, stored, self.variables.get("moe_state", {}).get("router", {}))

    def _store(self, out: LayerOutput, *, moved: bool) -> None:
        if moved and self.has_variable("moe_state", "router"):
            self.put_variable("moe_state", "router", to_plain(out.state))
        for name, loss in out.losses.items():
            self.sow("losses", name, loss, reduce_fn=jnp.add, init_fn=lambda: jnp.zeros((), jnp.float32))
        for name, value in out.metrics.items():
            self.sow("metrics", name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        self.sow("intermediates", "plan", out.plan)


def total_loss(losses: Losses) -> Float[Array, ""]:
    """The sum of a 'losses' collection: over modules, losses and scanned layers. 0 when there are none."""
    return sum((jnp.sum(leaf) for leaf in _leaves(losses)), jnp.zeros((), jnp.float32))


def _leaves(tree: Any) -> list[Array]:
    return [leaf for child in tree.values() for leaf in _leaves(child)] if isinstance(tree, Mapping) else [tree]
