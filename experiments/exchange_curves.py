"""What the exchange of a V-MoE-H/14 layer would cost on up to thousands of devices, by strategy, from a cost model.

  python experiments/exchange_curves.py
  python experiments/exchange_curves.py --machine h100 --trace experiments/results/routing_patchwork_vmoe.npz

Bytes are exact (tests count them in compiled programs); times are latency + bytes / bandwidth at the link figures that are
printed with their sources, nothing was run. There is one expert per device (16 for fewer devices than that); the load of
experts is that of the recorded routing. Writes exchange_curves.json, .md and .png beside the trace or to --output.
"""

import json
import pathlib
import sys

import flag_errors
from absl import app, flags
from recorded import RESULTS

from moejax.core.errors import SpecError
from moejax.evals import routing_traces
from moejax.planning import exchange_curves
from moejax.planning.exchange_costs import Layer
from moejax.planning.links import LINKS

DEVICES = tuple(2**power for power in range(3, 13))
PICTURES, TOKENS, CHOICES, WIDTH, HIDDEN, LATENT, CAPACITY = 64, 257, 2, 1280, 5120, 320, 1.05

_TRACE = flags.DEFINE_string(
    "trace", str(RESULTS / "routing_patchwork_vmoe.npz"), "Recorded routing (record_routing.py)."
)
_MACHINE = flags.DEFINE_multi_string("machine", list(LINKS), "Machines of moejax/planning/links.py.")
_OUTPUT = flags.DEFINE_string("output", str(RESULTS / "exchange_curves.json"), "JSON file; .md and .png lie beside it.")


def layer(devices: int) -> Layer:
    """64 pictures per device."""
    tokens, experts = PICTURES * TOKENS, max(devices, 16)
    slots = round(CAPACITY * tokens * CHOICES / experts) * experts
    return Layer(
        tokens=tokens, choices=CHOICES, experts=experts, slots=slots, width=WIDTH, latent=LATENT, number_bytes=2
    )


def main(_: list[str]) -> None:
    flops = 4.0 * PICTURES * TOKENS * CHOICES * WIDTH * HIDDEN
    try:
        trace = routing_traces.load(_TRACE.value)
        found = {
            name: exchange_curves.curves(name, layer, DEVICES, trace, expert_flops=flops) for name in _MACHINE.value
        }
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    path = pathlib.Path(_OUTPUT.value)
    path.write_text(json.dumps(found, indent=1) + "\n")
    text = "\n\n".join(exchange_curves.table(name, one) for name, one in found.items())
    path.with_suffix(".md").write_text(f"Milliseconds of one layer's exchange, forward, by devices.\n\n{text}\n")
    exchange_curves.draw(found, path.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
