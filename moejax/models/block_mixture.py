"""A diffusion transformer whose blocks are in groups, of which each example passes only some: Mixture of Blocks.

Source: Zheng et al. 2025, "Dense2MoE: Restructuring Diffusion Transformer to MoE for Efficient Text-to-Image Generation"
    (Mixture of Blocks: a router per group sends each sample through a subset of the group's blocks).
Deviations: what the paper's router reads is not known in detail; here it is the condition, the sum of the embeddings of time
    and class. Chosen blocks run in their old order and count in full; their score reaches the router through a factor that
    is one in value. Examples are computed one after the other, which keeps the stated FLOPs without copying weights.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from moejax.core.errors import SpecError
from moejax.core.outputs import DenoiserOutput
from moejax.core.rng import maybe_named, named
from moejax.core.segments import split_segments, stack
from moejax.layers.adaptive_block import AdaptiveBlock
from moejax.layers.moe import MoE
from moejax.models.dit import DiffusionTransformer
from moejax.models.limits import check_pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockMixture:
    """model: the transformer whose blocks are mixed; its blocks must be alike within a group.

    blocks_per_group: consecutive blocks with a router of their own; must divide the depth. num_selected_blocks: of a group
    that an example passes. balance_loss_weight: factor on n sum(share of examples * mean score) over a group's n blocks.
    """

    model: DiffusionTransformer
    blocks_per_group: int
    num_selected_blocks: int
    balance_loss_weight: float = 0.01

    def __post_init__(self) -> None:
        size, chosen, depth = self.blocks_per_group, self.num_selected_blocks, self.model.depth
        if size < 1 or depth % size:
            raise SpecError(f"blocks_per_group={size} must divide the depth {depth}.")
        if not 1 <= chosen <= size:
            raise SpecError(f"num_selected_blocks={chosen} must lie between 1 and blocks_per_group={size}.")
        if self.balance_loss_weight < 0:
            raise SpecError(f"balance_loss_weight={self.balance_loss_weight} must not be negative.")
        for name, block in self.groups.items():
            first = int(name[:2])
            if any(other != block for other in self.model.blocks[first : first + size]):
                raise SpecError(
                    f"blocks {name} differ; a group's blocks must be alike, such as moe_layers='all' or 'none'."
                )
            if isinstance(block.mixer, MoE) and block.mixer.group_size is not None:
                raise SpecError("examples are routed apart here: MoE layers need group_size=None.")

    @property
    def groups(self) -> dict[str, AdaptiveBlock]:
        """Name, such as '04-07' -> the spec of its blocks."""
        size = self.blocks_per_group
        return {f"{i:02d}-{i + size - 1:02d}": self.model.blocks[i] for i in range(0, self.model.depth, size)}

    # What tasks and data ask a diffusion model.

    @property
    def image_size(self) -> int:
        return self.model.image_size

    @property
    def channels(self) -> int:
        return self.model.channels

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    @property
    def label_dropout(self) -> float:
        return self.model.label_dropout

    @property
    def learn_variance(self) -> bool:
        return self.model.learn_variance

    def init(self, key: PRNGKeyArray) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters of the transformer, its blocks stacked by group, and {'routers'}; state {}.

        Raises SpecError for MoE routers with a state.
        """
        params, state = self.model.init(key)
        if jax.tree.leaves(state):
            raise SpecError("MoE layers whose router keeps a state cannot stand in a mixture of blocks.")
        return self.from_transformer(params, named(key, "routers")), {}

    def from_transformer(self, params: Any, key: PRNGKeyArray, *, router_std: float = 0.02) -> dict[str, Any]:
        """Parameters of this model from those of the transformer; routers are drawn from N(0, router_std)."""
        single = split_segments(params["blocks"])
        blocks, routers = {}, {}
        for name in self.groups:
            first = int(name[:2])
            blocks[name] = stack([single[f"{first + i:02d}"] for i in range(self.blocks_per_group)])
            shape = (self.model.dim, self.blocks_per_group)
            routers[name] = {"kernel": router_std * jax.random.normal(named(key, name), shape)}
        return {**params, "blocks": blocks, "routers": routers}

    def apply(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        x: Float[Array, "B height width channels"],
        time: Float[Array, " B"],
        label: Int[Array, " B"],
        *,
        key: PRNGKeyArray | None = None,
        return_plans: bool = False,
    ) -> DenoiserOutput:
        """As the transformer's. There are no plans; metrics: 'blocks_00-03/load' [n], the share of examples per block."""
        del return_plans
        return self.apply_with_features(params, state, x, time, label, key=key)[0]

    def apply_with_features(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        x: Float[Array, "B height width channels"],
        time: Float[Array, " B"],
        label: Int[Array, " B"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[DenoiserOutput, dict[str, Float[Array, "B T D"]]]:
        """`apply`, and the tokens behind each group, by its name, for a loss between models of the same groups."""
        check_pictures(x.shape, self.model.image_size, self.model.channels)
        condition = self.model.condition(params["embedding"], time, label, key=maybe_named(key, "embedding"))
        tokens = self.model.embed(params["embedding"], x)
        features, losses, metrics = {}, [], {}
        for name, block in self.groups.items():
            scores = jax.nn.softmax(condition.astype(jnp.float32) @ params["routers"][name]["kernel"])
            chosen = jnp.sort(jax.lax.top_k(scores, self.num_selected_blocks)[1], axis=-1)
            tokens, beside = _group(block, params["blocks"][name], tokens, condition, time, scores, chosen)
            load = jnp.mean(jax.nn.one_hot(chosen, scores.shape[-1]).sum(1), axis=0)
            balance = scores.shape[-1] * jnp.sum(load / self.num_selected_blocks * scores.mean(0))
            features[name], metrics[f"blocks_{name}/load"] = tokens, load
            losses.append(beside | {"block_balance": self.balance_loss_weight * balance})
        prediction = self.model.predict(params["final"], tokens, condition)
        pictures = jnp.split(prediction, 2, axis=-1) if self.model.learn_variance else [prediction, None]
        mean = jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *losses)
        out = DenoiserOutput(
            prediction=pictures[0], variance=pictures[1], state=state, losses=mean, metrics=metrics, plans={}
        )
        return out, features


def _group(
    block: AdaptiveBlock,
    params: Any,
    x: Float[Array, "B T D"],
    condition: Float[Array, "B D"],
    time: Float[Array, " B"],
    scores: Float[Array, "B L"],
    chosen: Int[Array, "B K"],
) -> tuple[Float[Array, "B T D"], dict[str, Float[Array, ""]]]:
    """Tokens through each example's own blocks, and the mean of the blocks' losses."""

    def example(one: Any) -> Any:
        tokens, c, t, own, index = one
        step = functools.partial(_step, block, params, c[None], t[None], own)
        out, losses = jax.lax.scan(step, tokens[None], index)
        return out[0], jax.tree.map(jnp.mean, losses)

    tokens, losses = jax.lax.map(example, (x, condition, time, scores, chosen))
    return tokens, jax.tree.map(jnp.mean, losses)


def _step(
    block: AdaptiveBlock, params: Any, condition: Any, time: Any, scores: Float[Array, " L"], x: Any, index: Any
) -> tuple[Float[Array, "1 T D"], dict[str, Float[Array, ""]]]:
    out = block.apply(jax.tree.map(lambda leaf: leaf[index], params), {}, x, condition, time)
    one = scores[index] / jax.lax.stop_gradient(scores[index])  # for the router's gradient
    return x + one.astype(x.dtype) * (out.tokens - x), out.losses


_EXAMPLE = DiffusionTransformer(image_size=8, patch_size=4, dim=8, depth=4, num_heads=2, mlp_dim=16, num_classes=3)
EXAMPLES = (BlockMixture(model=_EXAMPLE, blocks_per_group=2, num_selected_blocks=1),)
