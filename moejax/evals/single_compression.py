"""One compression, told in full: every layer's error, and the model before and after.

Source: ours.
"""

from collections.abc import Mapping
from typing import Any

from moejax.evals.compression_cells import measure_structures
from moejax.evals.compression_subject import Subject
from moejax.evals.weight_costs import num_params


def compare(subject: Subject, stages: Mapping[str, Any], *, rounds: int) -> dict[str, dict[str, Any]]:
    """For each stage ('before', 'after', 'healed' -> parameters): 'quality', 'params', 'flops', and latency and memory.

    rounds: of the latency measurement, all stages in turn; 0 leaves it out.
    """
    speed = measure_structures(subject, stages, rounds=rounds) if rounds else {}
    return {
        name: {
            "quality": subject.quality(params),
            "params": num_params(params),
            "flops": subject.flops(params),
            **speed.get(name, {}),
        }
        for name, params in stages.items()
    }


def markdown(result: Mapping[str, Any]) -> str:
    """result: 'subject', 'setting', 'seconds', 'stages' as of `compare`, 'weights' as of `measure_cell`, and 'healing' or None."""
    setting, stages = result["setting"], result["stages"]
    lines = [
        f"# {result['subject']} by {setting['method']}, {setting['budget']:.0%} of {setting['unit']}",
        "",
        f"Compressed in {result['seconds']:.2f} s.",
        "",
    ]
    names = list(next(iter(stages.values()))["quality"])
    head = ["", *names, "parameters", "FLOPs per example", "ms", "MiB of temporary arrays"]
    lines += [_row(head), _row(["---", *("---:" for _ in head[1:])])]
    for name, stage in stages.items():
        speed = (
            [f"{stage['milliseconds']:.2f}", f"{stage['temporary_bytes'] / 2**20:.2f}"]
            if "milliseconds" in stage
            else ["-", "-"]
        )
        quality = [f"{stage['quality'][entry]:.4f}" for entry in names]
        lines.append(_row([name, *quality, f"{stage['params']:,}", f"{stage['flops']:,}", *speed]))
    lines += [
        "",
        "Relative errors by weight: in the method's own norm, of the kernels, and of their outputs on the calibration data.",
        "",
    ]
    lines += [_row(["weight", "ranks", "own", "kernel", "outputs"]), _row(["---", "---", "---:", "---:", "---:"])]
    for name, weight in result["weights"].items():
        errors = [weight[kind] for kind in ("own_error", "plain_error", "data_error")]
        lines.append(_row([name, _ranks(weight["ranks"]), *("-" if e is None else f"{100 * e:.2f} %" for e in errors)]))
    if result["healing"] is not None:
        healing = result["healing"]
        lines += ["", f"Healed by {healing['steps']} steps ({healing['kind']}): loss {healing['first']:.4f} -> {healing['last']:.4f} in "
                  f"{healing['seconds']:.1f} s."]  # fmt: skip
    return (
        "\n".join([*lines, *(["", *(f"- {text}" for text in result["warnings"])] if result["warnings"] else [])]) + "\n"
    )


def _ranks(ranks: Any) -> str:
    if not ranks:
        return "-"
    if None in ranks:
        return "dense"
    return str(ranks[0]) if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"


def _row(entries: list[str]) -> str:
    return "| " + " | ".join(entries) + " |"
