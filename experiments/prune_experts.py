"""Prunes the experts of a fine-tuned run whose router vectors grew least, beside pruning at random, by use, and in reversed order.

  python experiments/train.py --config configs/vit/patchwork.py:model=vmoe,steps=500 --workdir runs/vmoe
  python experiments/train.py --config configs/vit/finetune.py:source=runs/vmoe,steps=200 \
      --config.data.batch_size=64 --workdir runs/vmoe_garments
  python experiments/prune_experts.py --before runs/vmoe --after runs/vmoe_garments \
      --output experiments/results/pruned_experts.json

Nothing is trained after pruning. Prints a table, and writes it with the growth of every router vector as JSON, with NAME.md and
NAME.png beside it. Exit codes: 0 done, 1 no usable checkpoint, 2 a wrong option, or runs that do not belong together.
"""

import json
import sys
from pathlib import Path
from typing import Any

import flag_errors
import numpy as np
from absl import app, flags, logging
from finished_runs import FinishedRun

from moejax.compress.expert_pruning import router_kernels
from moejax.core.errors import SpecError
from moejax.evals import figure_style, study_tables
from moejax.evals.evaluation import environment
from moejax.evals.predictions import predict
from moejax.evals.pruning_curve import chart, lines_of, pruning_curve
from moejax.routing.norm_growth import norm_growth, pruning_order
from moejax.tasks.classification import Classification
from moejax.train.checkpoints import CheckpointError
from moejax.train.memory import keep_freed_memory

_BEFORE = flags.DEFINE_string("before", None, "Folder of the run that fine-tuning began with.")
_AFTER = flags.DEFINE_string("after", None, "Folder of the fine-tuned run.")
_WHICH = flags.DEFINE_enum("which", None, ["best", "last"], "Checkpoint of --after; by default what its test took.")
_SHARES = flags.DEFINE_list("shares", ["0.25", "0.5", "0.75", "0.875"], "Shares of the experts of a layer to prune.")
_DRAWS = flags.DEFINE_integer("draws", 5, "Random orders.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the random orders.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data that accuracy is measured on; use is of 'validation'.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def growths(before: Any, after: Any) -> dict[str, np.ndarray]:
    """Of every MoE layer, how much each expert's router vector grew."""
    first, last = router_kernels(before), router_kernels(after)
    shapes = [{layer: kernel.shape for layer, kernel in kernels.items()} for kernels in (first, last)]
    if shapes[0] != shapes[1]:
        raise SpecError(
            f"--before has routers {shapes[0]}, --after {shapes[1]}; give the run that fine-tuning began with."
        )
    return {layer: norm_growth(first[layer], last[layer]) for layer in first}


def usage(run: FinishedRun) -> dict[str, np.ndarray]:
    """Of every MoE layer, how many tokens each expert served on validation pictures."""
    info = run.dataset.info
    found = predict(
        run.model, run.params, run.state, run.dataset.eval_batches("validation"),
        num_classes=info.num_classes, num_tokens=run.model.num_tokens, link=run.task.cross_entropy,
    )  # fmt: skip
    return {block.rpartition("_")[2]: layer.mass_by_class.sum(axis=0) for block, layer in found.layers.items()}


def counts(num_experts: int) -> list[int]:
    """Pruned experts of a layer: none, and those of --shares."""
    found = sorted({0} | {round(float(share) * num_experts) for share in _SHARES.value})
    if found[0] < 0 or found[-1] >= num_experts:
        raise SpecError(f"--shares={','.join(_SHARES.value)} must leave between 1 and all of {num_experts} experts.")
    return found


def measured(before: FinishedRun, after: FinishedRun) -> dict[str, Any]:
    """What the JSON file holds."""
    growth, draw = growths(before.params, after.params), np.random.default_rng(_SEED.value)
    num_experts = len(next(iter(growth.values())))
    used = usage(after)
    orders = {
        "norm growth": [{layer: pruning_order(own) for layer, own in growth.items()}],
        "use": [{layer: pruning_order(used[layer]) for layer in growth}],
        "random": [{layer: draw.permutation(num_experts) for layer in growth} for _ in range(_DRAWS.value)],
        "reversed growth": [{layer: pruning_order(-own) for layer, own in growth.items()}],
    }
    batches = list(after.dataset.eval_batches(_SPLIT.value))
    rows = pruning_curve(after.model, after.params, after.state, batches, orders, counts(num_experts))
    alike = {layer: float(np.corrcoef(growth[layer], used[layer])[0, 1]) for layer in growth}
    return {
        "before": {"run": before.config["name"], "step": before.step},
        "after": {"run": after.config["name"], "step": after.step, "split": _SPLIT.value},
        "seed": _SEED.value,
        "growth": {layer: own.tolist() for layer, own in growth.items()},
        "correlation of growth and use": alike,
        "environment": environment(),
        "rows": rows,
    }


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    try:
        before = FinishedRun.of_task(Classification, str(_BEFORE.value), "best", flag="before")
        after = FinishedRun.of_task(Classification, str(_AFTER.value), _WHICH.value, flag="after")
        found = measured(before, after)
    except (SpecError, CheckpointError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, CheckpointError) else 2)
    target = Path(str(_OUTPUT.value))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=1) + "\n")
    lines = lines_of(found["rows"])
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")
    with figure_style.figure(9, 6) as canvas:
        study_tables.draw(canvas, chart(found["rows"]), title="experts pruned after fine-tuning")
        figure_style.save(canvas, target.with_suffix(".png"))
    print("\n".join(lines))
    print(f"written: {target}, .md and .png")


if __name__ == "__main__":
    flags.mark_flags_as_required(["before", "after", "output"])
    app.run(main, flags_parser=flag_errors.parse)
