"""`MoE` for Flax NNX: drop it where a feed-forward block was.

    moe = MoE(64, router={"name": "top_k", "num_experts": 8}, experts={"name": "mlp", "expert_dim": 256}, rngs=rngs)
    y = moe(x)

Source: ours; all arithmetic is the functional layer's (`moejax/layers/moe.py`).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.contracts import Experts, Router
from moejax.core.outputs import LayerOutput
from moejax.flax.plain import build_layer, fold_sequences, from_plain, initialise, to_plain, with_arrays


class RouterState(nnx.Variable):
    """What a router keeps without gradients (balancing bias ...); moves in training."""


class RouterLoss(nnx.Variable):
    """The sum of the router's losses at the last call, already weighted."""


class MoE(nnx.Module):
    """Any router, experts and dispatch, by spec, config dict or name.

    params: nested dicts of `nnx.Param` under 'router', 'experts' and 'shared'. state: `RouterState`.
    loss: a `RouterLoss`, overwritten by each call, so that the graph never changes; add `total_loss(model)` to yours
        inside the function that is differentiated.
    deterministic: as in `nnx.Dropout`: set by `model.train()` and `model.eval()`, overridden by the call.
    dtype: dtype of the computation; None: that of x. Routers compute in float32 whatever it is.
    Raises SpecError for misspelt names and fields.
    """

    def __init__(
        self,
        dim: int,
        *,
        router: Router | Mapping[str, Any] | str,
        experts: Experts | Mapping[str, Any] | str,
        dispatch: str = "auto",
        group_size: int | None = None,
        shared: Experts | Mapping[str, Any] | str | None = None,
        dtype: Any = None,
        deterministic: bool = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
    ):
        fields = {"router": router, "experts": experts, "dispatch": dispatch, "group_size": group_size}
        self.layer = build_layer(fields | {"shared": shared})
        self.dim, self.dtype, self.deterministic = dim, dtype, deterministic
        params, state = initialise(self.layer, rngs.params(), dim)
        self.params = nnx.data(jax.tree.map(nnx.Param, with_arrays(to_plain(params))))
        self.state = nnx.data(jax.tree.map(RouterState, to_plain(state)))
        self.loss = RouterLoss(jnp.zeros((), jnp.float32))
        self.rngs = rngs[rng_collection].fork()

    def __call__(
        self,
        x: Float[Array, "... T D"],
        *,
        deterministic: bool | None = None,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "... T"] | None = None,
    ) -> Float[Array, "... T D"]:
        """Tokens of the same shape; see `output`."""
        return self.output(x, deterministic=deterministic, key=key, token_ids=token_ids).tokens.reshape(x.shape)

    def output(
        self,
        x: Float[Array, "... T D"],
        *,
        deterministic: bool | None = None,
        key: PRNGKeyArray | None = None,
        token_ids: Int[Array, "... T"] | None = None,
    ) -> LayerOutput:
        """All that the layer returns: tokens [B T D], losses and metrics by name, the plan.

        key: drawn from the module's own stream when training and not given.
        """
        train = not (self.deterministic if deterministic is None else deterministic)
        if train and key is None:
            key = self.rngs()
        tokens = fold_sequences(x if self.dtype is None else x.astype(self.dtype))
        ids = None if token_ids is None else token_ids.reshape(tokens.shape[:2])
        params, state = from_plain(self.layer, self.dim, _values(self.params), _values(self.state))
        out = self.layer.apply(params, state, tokens, key=key if train else None, token_ids=ids)
        self.loss.set_value(sum(out.losses.values(), jnp.zeros((), jnp.float32)))
        if train:
            jax.tree.map(lambda kept, new: kept.set_value(new), self.state, to_plain(out.state), is_leaf=_is_variable)
        return out


def total_loss(model: nnx.Module) -> Float[Array, ""]:
    """The sum of every MoE layer's loss at its last call, over scanned layers too. 0 when there are none."""
    losses = jax.tree.leaves(nnx.state(model, RouterLoss))
    return sum((jnp.sum(loss) for loss in losses), jnp.zeros((), jnp.float32))


def _values(tree: Any) -> Any:
    return jax.tree.map(lambda variable: variable.get_value(), tree, is_leaf=_is_variable)


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)
