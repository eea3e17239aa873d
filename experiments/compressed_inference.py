"""Compressed inference is really cheaper: latency and temporary memory of models at 25 % of their weights beside the dense ones.

  python experiments/compressed_inference.py --output experiments/results/compressed_inference.json

Weights and factors are random, of the rank that the budget leaves: neither time nor memory depends on what they hold. All
variants of a model run in turn in one process; times are medians over rounds, ratios medians of the ratio to the dense model
in the same round. Memory is what the compiled program takes beside its arguments, and the parameters' bytes.
  dense            the uncompressed model
  two products     every low-rank feed-forward layer keeps its hidden rows in memory
  fused            none does, however small, but for buffers of several experts (`linear.hidden_layer`)
  chosen           as the library decides by size
  rank space       chosen, and queries, keys and values are rebuilt tile by tile (encoder only)
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import flag_errors
import jax
import jax.numpy as jnp
import step_times
from absl import app, flags

from moejax.compress.weights import Weight, find, replace
from moejax.core.segments import split_segments
from moejax.core.spec import build_method
from moejax.evals.timing import environment, interleaved, medians, ratios
from moejax.linear import hidden_layer
from moejax.linear.low_rank import LowRank
from moejax.models.text_encoder import TextEncoder
from moejax.train.memory import keep_freed_memory

_MODELS = flags.DEFINE_list("models", ["encoder", "demo", "wide"], "Which of encoder, demo and wide.")
_BUDGET = flags.DEFINE_float("budget", 0.25, "Share of the compressed weights' parameters that stays.", 0.01, 1.0)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed rounds.", 1)
_NOTE = flags.DEFINE_string("note", "", "What else the machine did; goes into the record.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")

WEIGHTS = r"(attention/(query|key|value|out)|feed_forward/(up|down)|experts/(up|down))$"
WIDE = "size=S/32,moe=every2,experts=8,num_classes=1000"
NEVER = 1 << 62  # numbers of hidden rows that no layer has
CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs" / "vit"


@dataclasses.dataclass(frozen=True)
class Case:
    """A model: its forward pass (params, inputs) and others by variant, its parameters and inputs."""

    name: str
    apply: Callable[..., Any]
    others: dict[str, Callable[..., Any]]
    params: Any
    inputs: jax.Array


def encoder() -> Case:
    """MiniLM's size, 8 texts of 128 tokens."""
    model = TextEncoder(vocabulary_size=30_522, max_length=512, dim=384, depth=6, num_heads=12, mlp_dim=1536)
    frugal = dataclasses.replace(model, from_rank_space=True)
    tokens = jax.random.randint(jax.random.key(1), (8, 128), 0, 30_522)
    others = {"rank space": frugal.text_vectors}
    return Case("encoder, 8 x 128 tokens", model.text_vectors, others, model.init(jax.random.key(0)), tokens)


def transformer(name: str, file: str, argument: str, pictures: int) -> Case:
    """The V-MoE of a config, evaluated on so many pictures in float32."""
    config = step_times.read_config(CONFIGS / file, argument)["model"] | {"dtype": "float32"}
    model = build_method("models", config)
    params, state = model.init(jax.random.key(0))
    state = split_segments(state)
    size = (pictures, model.image_size, model.image_size, model.channels)

    def logits(params: Any, images: jax.Array) -> jax.Array:
        return model.apply(params, state, images).logits

    return Case(name, logits, {}, params, jax.random.uniform(jax.random.key(1), size))


CASES: dict[str, Callable[[], Case]] = {
    "encoder": encoder,
    "demo": functools.partial(transformer, "demo V-MoE, 64 pictures", "patchwork.py", "model=vmoe", 64),
    "wide": functools.partial(transformer, "V-MoE S/32, 8 experts, 8 pictures", "vmoe_paper.py", WIDE, 8),
}


def low_rank(weight: Weight) -> LowRank:
    """Random factors that keep the budget's share of the kernel's numbers."""
    *lead, depth, width = weight.shape
    rank = max(int(_BUDGET.value * depth * width / (depth + width)), 1)
    u, v = (jax.random.normal(jax.random.key(2), (*lead, *s)) * s[0] ** -0.5 for s in ((depth, rank), (rank, width)))
    return LowRank(u, v)


def programs(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compiled forward passes by variant, and the parameters of each."""
    dense = split_segments(case.params)
    low = replace(dense, {name: low_rank(weight) for name, weight in find(dense, WEIGHTS).items()})
    chosen = hidden_layer.LEAST_FUSED
    compiled: dict[str, Any] = {}
    applies = dict.fromkeys(("dense", "two products", "fused", "chosen"), case.apply) | case.others
    for variant, apply in applies.items():
        params = dense if variant == "dense" else low
        hidden_layer.LEAST_FUSED = {"two products": NEVER, "fused": 0}.get(variant, chosen)
        compiled[variant] = jax.jit(lambda p, x, apply=apply: apply(p, x)).lower(params, case.inputs).compile()
    hidden_layer.LEAST_FUSED = chosen
    return compiled, {variant: dense if variant == "dense" else low for variant in compiled}


def measure(case: Case) -> list[dict[str, Any]]:
    """One row per variant."""
    compiled, params = programs(case)
    runs = {variant: functools.partial(program, params[variant], case.inputs) for variant, program in compiled.items()}
    outputs = {variant: run() for variant, run in runs.items()}
    seconds = interleaved(runs, rounds=_ROUNDS.value)
    times, relative = medians(seconds), ratios(seconds, "dense")
    rows = []
    for variant, program in compiled.items():
        row = {"model": case.name, "variant": variant, "milliseconds": times[variant], "ratio": relative[variant]}
        row["temporary_bytes"] = program.memory_analysis().temp_size_in_bytes
        row["params_bytes"] = sum(leaf.nbytes for leaf in jax.tree.leaves(params[variant]))
        # Against the two products: the same function, computed in another order.
        row["difference"] = float(jnp.max(jnp.abs(outputs[variant] - outputs["two products"])))
        rows.append(row)
    return rows


def main(argv: list[str]) -> None:
    """Measures, prints a table for each model, and writes the JSON file."""
    del argv
    keep_freed_memory()  # as serving would
    results = []
    for name in _MODELS.value:
        rows = measure(CASES[name]())
        print(f"\n{rows[0]['model']}\n{'variant':14} {'ms':>9} {'ratio':>6} {'temporary MB':>13} {'params MB':>10}")
        for row in rows:
            sizes = f"{row['temporary_bytes'] / 1e6:13.2f} {row['params_bytes'] / 1e6:10.2f}"
            print(f"{row['variant']:14} {row['milliseconds']:9.2f} {row['ratio']:6.2f} {sizes}", flush=True)
        results += rows
    if _OUTPUT.value:
        setting = {flag.name: flag.value for flag in (_MODELS, _BUDGET, _ROUNDS, _NOTE)}
        record = {"environment": environment(), "setting": setting, "results": results}
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
