"""Where the experts of a recorded run should lie: hops between layers and peak loads, placed on half of its sequences, measured on the other.

  python experiments/place_experts.py --trace experiments/results/routing_patchwork_vmoe.npz \
      --output experiments/results/placement_patchwork_vmoe.json

Prints a table and writes it as JSON. Exit codes: 0 done, 2 a wrong option or no trace.
"""

import json
import sys
from pathlib import Path

import flag_errors
from absl import app, flags, logging

from moejax.core.errors import SpecError
from moejax.evals import routing_traces
from moejax.placement.measured import halves, placement_row

_TRACE = flags.DEFINE_string("trace", None, "Recorded routing, as experiments/record_routing.py wrote it.")
_DEVICES = flags.DEFINE_list("devices", ["2", "4", "8"], "Numbers of devices, divisors of the number of experts.")
_GUESTS = flags.DEFINE_integer("guests", 1, "Experts of others that a device has room for.", 0)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; None prints only.")

COLUMNS = ("devices", "hops", "hops_placed", "peak", "peak_copies", "peak_spilled")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        trace = routing_traces.load(str(_TRACE.value))
        parts = halves(trace.choices, trace.tokens_per_sequence)
        numbers = [int(number) for number in _DEVICES.value]
        rows = [placement_row(*parts, trace.num_experts, number, num_guests=_GUESTS.value) for number in numbers]
    except (SpecError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(
        f"{trace.source}: layers {', '.join(trace.blocks)}, {trace.num_experts} experts, {parts[1].shape[1]} tokens held out"
    )
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for row in rows:
        cells = ["-" if row[name] is None else f"{row[name]:.4g}" for name in COLUMNS]
        print("| " + " | ".join(cells) + " |")
    if _OUTPUT.value is not None:
        facts = {"source": trace.source, "blocks": trace.blocks, "num_experts": trace.num_experts}
        tokens = {"tokens_seen": parts[0].shape[1], "tokens_held_out": parts[1].shape[1]}
        Path(_OUTPUT.value).write_text(json.dumps(facts | tokens | {"rows": rows}, indent=1) + "\n")
        print(f"written: {_OUTPUT.value}")


if __name__ == "__main__":
    flags.mark_flag_as_required("trace")
    app.run(main, flags_parser=flag_errors.parse)
