"""Times of one layer, forward and with the backward pass: every dispatch beside the dense MLP of equal activated FLOPs.

  python experiments/benchmark.py --num_experts 8,32,128 --output benchmark.json

All layers of one number of experts run in turn in one process; times are medians over rounds, ratios are medians of the
ratio to the dense MLP in the same round. `bound` is the ratio of FLOPs (router, rows really computed with their padding,
products that move tokens or mix parameters) to those of the dense MLP: what a dispatch would cost whose sorting, copies
and small products were free. A layer evaluates (no noise, no dropout). Exit code 2: flags that make no layer.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import flag_errors
import jax
import jax.numpy as jnp
from absl import app, flags

from moejax.core.errors import SpecError
from moejax.core.layouts import Layout
from moejax.core.spec import build_method
from moejax.dispatch.strategies import dispatch
from moejax.evals.flops import count_flops
from moejax.evals.timing import environment, interleaved, medians, ratios
from moejax.experts.mlp import MlpExperts
from moejax.layers.feed_forward import FeedForward
from moejax.layers.moe import MoE
from moejax.train.memory import keep_freed_memory

_NUM_EXPERTS = flags.DEFINE_list("num_experts", ["8", "32", "128"], "Numbers of experts, by commas.")
flags.register_validator(
    "num_experts", lambda names: all(n.isdecimal() and int(n) > 0 for n in names), "numbers above 0"
)
_GROUPS = flags.DEFINE_integer("groups", 8, "Groups G.", 1)
_TOKENS = flags.DEFINE_integer("tokens", 256, "Tokens per group S.", 1)
_DIM = flags.DEFINE_integer("dim", 256, "Model width D.", 1)
_EXPERT_DIM = flags.DEFINE_integer("expert_dim", 512, "Hidden width F of an expert; the dense MLP has K F.", 1)
_SELECTED = flags.DEFINE_integer("num_selected_experts", 2, "Experts per token K.", 1)
_CAPACITY_FACTOR = flags.DEFINE_float("capacity_factor", 1.25, "Of token choice with buffers.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Timed rounds.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of the tokens.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_SMOKE = flags.DEFINE_boolean("smoke", False, "Tiny sizes and one round, to see that it runs.")


def layers(num_experts: int, tokens: int) -> dict[str, MoE]:
    """Every dispatch with a router that makes plans for it."""
    k = _SELECTED.value
    top_k = {"name": "top_k", "num_experts": num_experts, "num_selected_experts": k}
    limited = top_k | {"capacity_factor": _CAPACITY_FACTOR.value}
    choice = {"name": "expert_choice", "num_experts": num_experts, "capacity_factor": float(k)}
    soft = {"name": "soft", "num_experts": num_experts, "num_slots": max(1, tokens * k // num_experts)}
    rows = [(top_k, "ragged"), (limited, "ragged"), (limited, "gather"), (limited, "einsum")]
    rows += [(choice, "gather"), (choice, "einsum"), (soft, "einsum")]
    rows += [({"name": "merge", "num_experts": num_experts}, "merge")]
    made = {}
    for config, strategy in rows:
        # A merged expert is one expert per token; it gets the width of the K that the others activate.
        width = _EXPERT_DIM.value * (k if strategy == "merge" else 1)
        name = f"{config['name']}{'' if config is not top_k else ' (dropless)'} / {strategy}"
        router = build_method("routing", config)
        made[name] = MoE(router=router, experts=MlpExperts(expert_dim=width), dispatch=strategy)
    return made


def layer_flops(layer: MoE, params: Any, state: Any, x: jax.Array) -> int:
    """FLOPs of the forward pass: router, moving tokens, and each row that the experts compute."""
    rows: list[int] = []

    def note(_: Any, layout: Layout) -> Layout:
        rows.append(layout.tokens.size // x.shape[-1])
        return layout

    def move(params: Any, x: jax.Array) -> jax.Array:
        plan = layer.router.route(params["router"], state, x).plan
        return dispatch(layer.dispatch, plan, x, params["experts"], note)

    flops = count_flops(move, params, x)
    return flops + rows[0] * layer.experts.flops_per_token(x.shape[-1])


def passes(apply: Callable[[Any, jax.Array], jax.Array], params: Any, x: jax.Array) -> dict[str, Callable[[], Any]]:
    """The compiled forward pass, and the forward and backward pass with gradients of parameters and tokens."""
    gradient = jax.jit(jax.grad(lambda p, x: jnp.sum(jnp.square(apply(p, x).astype(jnp.float32))), argnums=(0, 1)))
    return {
        "forward": functools.partial(jax.jit(apply), params, x),
        "forward+backward": functools.partial(gradient, params, x),
    }


def output_tokens(layer: MoE, state: Any, params: Any, x: jax.Array) -> jax.Array:
    """What the layer computes, in evaluation."""
    return layer.apply(params, state, x).tokens


def measure(num_experts: int, x: jax.Array, rounds: int) -> list[dict[str, Any]]:
    """One row per layer and pass: milliseconds, ratio to the dense MLP, and its bound."""
    dense = FeedForward(experts=MlpExperts(expert_dim=_EXPERT_DIM.value * _SELECTED.value))
    runs = {"dense MLP": passes(dense.apply, dense.init(jax.random.key(0), x.shape[-1]), x)}
    dense_flops = x.size // x.shape[-1] * dense.experts.flops_per_token(x.shape[-1])
    bounds = {"dense MLP": 1.0}
    banks: dict[Any, Any] = {}  # one set of weights per bank: 128 experts take a gigabyte
    for name, layer in layers(num_experts, x.shape[1]).items():
        params, state = layer.init(jax.random.key(0), x.shape[-1])
        params["experts"] = banks.setdefault(layer.experts, params["experts"])
        runs[name] = passes(functools.partial(output_tokens, layer, state), params, x)
        bounds[name] = layer_flops(layer, params, state, x) / dense_flops
    rows = []
    for kind in ("forward", "forward+backward"):
        seconds = interleaved({name: run[kind] for name, run in runs.items()}, rounds=rounds)
        times, relative = medians(seconds), ratios(seconds, "dense MLP")
        for name in runs:
            row = {"num_experts": num_experts, "layer": name, "pass": kind, "milliseconds": times[name]}
            rows.append(row | {"ratio": relative[name], "bound": bounds[name]})
    return rows


def main(argv: list[str]) -> None:
    """Measures, prints a table for each number of experts, and writes the JSON file."""
    del argv
    keep_freed_memory()  # as training does
    groups, tokens, dim, rounds = _GROUPS.value, _TOKENS.value, _DIM.value, _ROUNDS.value
    if _SMOKE.value:
        groups, tokens, dim, rounds = 2, 8, 8, 1
    x = jax.random.normal(jax.random.key(1), (groups, tokens, dim), jnp.dtype(_DTYPE.value))
    results = []
    for num_experts in [4] if _SMOKE.value else map(int, _NUM_EXPERTS.value):
        try:
            rows = measure(num_experts, x, rounds)
        except SpecError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        print(f"\nE = {num_experts}, {groups} groups of {tokens} tokens of width {dim}, {_DTYPE.value}")
        print(f"{'layer':28} {'pass':17} {'ms':>9} {'ratio':>7} {'bound':>7}")
        for row in rows:
            times = f"{row['milliseconds']:9.2f} {row['ratio']:7.2f} {row['bound']:7.2f}"
            print(f"{row['layer']:28} {row['pass']:17} {times}", flush=True)
        results += rows
    if _OUTPUT.value:
        of = (_GROUPS, _TOKENS, _DIM, _EXPERT_DIM, _SELECTED, _CAPACITY_FACTOR, _DTYPE, _ROUNDS, _SMOKE)
        record = {"environment": environment(), "setting": {f.name: f.value for f in of}, "results": results}
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
