"""What a model costs, part by part, from shapes alone: parameters, FLOPs and bytes.

Definitions. **Activated parameters**: all parameters outside expert banks, and the parameters of one expert times the
experts that a token meets: K for token choice; E C / S on average for expert choice and for soft slots (the expert rows
computed per token, which makes activated parameters and FLOPs tell one story); 1 for merged experts.
**FLOPs**: see `flops`; products with tokens that an expert serves, by the bank's own formula. Rows of buffers that no
token fills are reported apart as padding. A training step is the forward pass three times (the backward pass counts
two), and once more for blocks whose products are recomputed (remat 'full' and 'exchange').
**Activation bytes**: what the backward pass of each part keeps from its forward pass, before the compiler's savings; the
transient peak inside a recomputed block is not in it.
A fixed table of positions stands in a line of its own: it is not trained, but published totals count it.
Source: ours; activated parameters of Soft MoE are not defined in its paper.
"""

import dataclasses
import functools
import json
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moejax.core.segments import segments_named
from moejax.core.tree import flatten
from moejax.evals.expert_rows import ExpertRows, expert_rows
from moejax.evals.flops import count_flops
from moejax.evals.model_ends import End, Model, condition_shape, model_ends, num_tokens, token_shape
from moejax.evals.weight_costs import activated_params, bank_flops, num_params, passage_flops
from moejax.layers.adaptive_block import AdaptiveBlock, modulation
from moejax.layers.block import Block
from moejax.layers.decoder_block import DecoderBlock
from moejax.layers.moe import MoE
from moejax.models.decoder import Decoder
from moejax.models.remat import Remat, computed_again, rematerialised

Shapes = Any  # a tree of jax.ShapeDtypeStruct


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a model. FLOPs are per example, activation bytes for a whole batch."""

    name: str
    kind: str
    params: int
    activated_params: int
    flops_per_example: int
    padding_flops_per_example: int = 0
    step_flops_per_example: int
    step_padding_flops_per_example: int = 0
    params_bytes: int
    optimizer_bytes: int = 0
    activation_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """The parts in the order of the forward pass, and the batch that activation bytes are counted for."""

    parts: tuple[Part, ...]
    batch_size: int

    def total(self, field: str) -> int:
        """The sum of a field over all parts."""
        return sum(getattr(part, field) for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Totals under the keys of `Part` ('total_params' for the parameters), and the parts under 'parts'."""
        names = [f.name for f in dataclasses.fields(Part) if f.name not in ("name", "kind", "params")]
        totals = {"total_params": self.total("params")} | {name: self.total(name) for name in names}
        return totals | {"batch_size": self.batch_size, "parts": [dataclasses.asdict(part) for part in self.parts]}

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)


def summarise(
    model: Model,
    *,
    batch_size: int = 1,
    length: int | None = None,
    optimizer_state: Shapes = None,
    params: Shapes = None,
    state: Shapes = None,
) -> Summary:
    """The cost of a model; nothing is allocated. optimizer_state: shapes of it, with the parameters' names in its leaves.

    length: tokens of an example, which is a sequence, of language models (None: the longest); others are given pictures.
    params, state: arrays or shapes, where they are not those of the model's init, such as compressed ones.
    Raises SpecError when `batch_size` examples do not make whole groups, or are too long.
    """
    if isinstance(model, Decoder):
        model.check_batch(batch_size, num_tokens(model, length))
    else:
        model.check_batch(batch_size)
    key = jax.eval_shape(jax.random.key, 0)
    fresh_params, fresh_state = jax.eval_shape(model.init, key)
    params = fresh_params if params is None else _shapes(params)
    state = fresh_state if state is None else _shapes(state)
    memory = flatten(optimizer_state)
    tokens, condition = token_shape(model, batch_size, length), condition_shape(model, batch_size)
    before, after = (
        [_end_part(end, params, memory, batch_size, key) for end in ends]
        for ends in model_ends(model, params, batch_size, length)
    )
    blocks = []
    for segment in segments_named(params["blocks"], model.blocks):
        layer_params, layer_state = _one_layer(
            (params["blocks"][segment.name], state["blocks"][segment.name]), segment.length
        )
        part = _block_part(segment.spec, layer_params, layer_state, tokens, condition, key, remat=model.remat)
        used = _optimizer_bytes(memory, [f"blocks/{segment.name}"]) // segment.length
        blocks += [dataclasses.replace(part, name=f"block_{i:02d}", optimizer_bytes=used) for i in segment.layers]
    blocks.sort(key=lambda part: part.name)
    return Summary(parts=(*before, *blocks, *after), batch_size=batch_size)


def _end_part(end: End, params: Shapes, memory: dict[str, Any], batch_size: int, key: Any) -> Part:
    whole = {path: functools.reduce(operator.getitem, path.split("/"), params) for path in (*end.paths, *end.reads)}
    tree = {path: whole[path] for path in end.paths}
    flops = count_flops(end.apply, whole, end.inputs, None) // batch_size
    size = num_params(tree) + end.fixed
    return Part(
        name=end.name,
        kind=end.kind,
        params=size,
        activated_params=size,
        flops_per_example=flops,
        step_flops_per_example=3 * flops,
        params_bytes=_bytes(tree) + 4 * end.fixed,
        optimizer_bytes=_optimizer_bytes(memory, list(end.paths)),
        activation_bytes=_residual_bytes(end.apply, whole, end.inputs, key),
    )


def _block_part(
    block: Block | AdaptiveBlock | DecoderBlock,
    params: Shapes,
    state: Shapes,
    x: Any,
    condition: Any,
    key: Any,
    *,
    remat: Remat,
) -> Part:
    mixer, batch = block.mixer, x.shape[0]
    flops = count_flops(block.attention.apply, params["attention"], x)
    if isinstance(block, AdaptiveBlock):
        flops += count_flops(lambda p, c: modulation(p, c, 6), params, condition)
    kind, size = "dense", num_params(params)
    activated, step_flops, padding, step_padding = size, flops, 0, 0
    if isinstance(mixer, MoE):
        serving = expert_rows(mixer, params["moe"], state, x, None)
        training = expert_rows(mixer, params["moe"], state, x, key)
        kind = f"{type(mixer.router).__module__.rpartition('.')[2]} E={mixer.router.num_experts}"
        bank, experts = params["moe"]["experts"], mixer.router.num_experts
        met = activated_params(bank, experts_per_token=serving.experts_per_token, num_experts=experts)
        activated = size - num_params(bank) + met
        per_row, once = bank_flops(mixer.experts, bank, num_experts=experts, dim=x.shape[-1])
        once += passage_flops(mixer, bank, x)
        flops, padding = flops + once + _moe_flops(mixer, serving, x, per_row), serving.padding * per_row
        step_flops, step_padding = (
            step_flops + once + _moe_flops(mixer, training, x, per_row),
            training.padding * per_row,
        )
    else:
        flops += count_flops(mixer.apply, params["feed_forward"], x)
        step_flops = flops
    passes = 4 if computed_again(remat) else 3

    inputs = (x,) if condition is None else (x, condition)

    def forward(p: Any, given: Any, k: Any) -> Any:
        return block.apply(p, _zeros(state), *given, key=k).tokens

    apply = rematerialised(forward, remat, alone=True)
    return Part(
        name="block",
        kind=kind,
        params=size,
        activated_params=activated,
        flops_per_example=flops // batch,
        padding_flops_per_example=padding // batch,
        step_flops_per_example=passes * step_flops // batch,
        step_padding_flops_per_example=passes * step_padding // batch,
        params_bytes=_bytes(params),
        activation_bytes=_bytes(x) if remat == "full" else _residual_bytes(apply, params, inputs, key),
    )


def _zeros(state: Shapes) -> Any:
    """Arrays in the place of a router's state, to be traced, never run."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)


def _moe_flops(moe: MoE, rows: ExpertRows, x: Any, per_row: int) -> int:
    shared = 0 if moe.shared is None else moe.shared.flops_per_token(x.shape[-1])
    gate = 2 * x.shape[-1] if moe.shared_gate else 0
    every_token = (shared + gate) * x.shape[0] * x.shape[1]
    return rows.router_flops + rows.mixing_flops + rows.served * per_row + every_token


def _one_layer(tree: Shapes, length: int) -> Shapes:
    if length == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def _residual_bytes(apply: Callable[..., Any], params: Shapes, inputs: Any, key: Any) -> int:
    """Bytes that the backward pass keeps, the parameters themselves left out."""

    def residuals(p: Any, given: Any, k: Any) -> list[Any]:
        return jax.tree.leaves(jax.vjp(lambda q, g: apply(q, g, k), p, given)[1])

    jaxpr = jax.make_jaxpr(residuals)(params, inputs, key).jaxpr
    given = jaxpr.invars[: len(jax.tree.leaves(params))]
    kept = {id(v): v.aval for v in jaxpr.outvars if not hasattr(v, "val") and not any(v is p for p in given)}
    return sum(_bytes(aval) for aval in kept.values())


def _optimizer_bytes(memory: dict[str, Any], prefixes: list[str]) -> int:
    wanted = tuple(f"/{prefix}/" for prefix in prefixes)
    return sum(_bytes(leaf) for name, leaf in memory.items() if any(w in f"/{name}/" for w in wanted))


def _shapes(tree: Any) -> Shapes:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _bytes(tree: Shapes) -> int:
    return sum(leaf.size * _item_bytes(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _item_bytes(dtype: Any) -> int:
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize
