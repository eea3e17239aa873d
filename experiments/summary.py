"""What a config's model costs, from shapes alone: parameters, FLOPs and bytes, per part and in all.

  python experiments/summary.py --config configs/vit/vmoe_paper.py:size=B/16,moe=every2,experts=32,num_classes=18291
  python experiments/summary.py --config configs/vit/patchwork.py:model=soft --batch_size 128 --json

Nothing is allocated, so models of any size fit. moejax/evals/summary.py says how each figure is defined.
Exit code 2: a config that cannot be built.
"""

import sys

import flag_errors
from absl import app, flags, logging
from ml_collections import config_flags
from model_cost import summary

from moejax.core.errors import SpecError
from moejax.evals.summary import Summary

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:arguments] of the config; see configs/.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "For activation bytes; default: config.data.batch_size.", 1)
_JSON = flags.DEFINE_boolean("json", False, "Print JSON instead of a table.")

COLUMNS = (
    ("params", "params"),
    ("activated_params", "activated"),
    ("flops_per_example", "FLOPs"),
    ("padding_flops_per_example", "+padding"),
    ("step_flops_per_example", "step FLOPs"),
    ("params_bytes", "params B"),
    ("optimizer_bytes", "optimizer B"),
    ("activation_bytes", "activations B"),
)


def table(result: Summary) -> str:
    """The summary as aligned text, one row per part and the sum."""
    head = ["part", "kind", *(title for _, title in COLUMNS)]
    rows = [[p.name, p.kind, *(short(getattr(p, field)) for field, _ in COLUMNS)] for p in result.parts]
    total = ["total", "", *(short(result.total(field)) for field, _ in COLUMNS)]
    widths = [max(map(len, column)) for column in zip(head, *rows, total, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in [head, *rows, total]
    ]
    rule = "-" * len(lines[0])
    exact = f"{result.total('params'):,} parameters, {result.total('activated_params'):,} of them activated by a token."
    notes = f"FLOPs per example (multiply-add = 2); activation bytes for a batch of {result.batch_size}."
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], "", exact, notes])


def short(value: int) -> str:
    """'1.23 M' for 1234567."""
    for exponent, unit in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**exponent:
            return f"{value / 10**exponent:.2f} {unit}"
    return str(value)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        result = summary(_CONFIG.value.to_dict(), _BATCH_SIZE.value)
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(result.to_json() if _JSON.value else table(result))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main, flags_parser=flag_errors.parse)
