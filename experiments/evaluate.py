"""Evaluates a checkpoint: a classifier's accuracy, calibration and 10-shot ridge regression, a language model's bits per byte, a
diffusion model's loss; and who was routed where.

  python experiments/evaluate.py --workdir runs/vmoe
  python experiments/evaluate.py --workdir runs/vmoe --split validation --which best --shots 5

Writes evaluation.json into the workdir and prints a table. Exit codes: 0 done, 1 no usable checkpoint, 2 a wrong option.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import flag_errors
from absl import app, flags, logging
from finished_runs import FinishedRun

from moejax.core.errors import SpecError
from moejax.evals.few_shot import FewShot
from moejax.train.checkpoints import CheckpointError
from moejax.train.memory import keep_freed_memory

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, as experiments/train.py left it.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data set to evaluate on.")
_WHICH = flags.DEFINE_enum("which", None, ["best", "last"], "Checkpoint; by default the one that the run's test took.")
_SHOTS = flags.DEFINE_integer("shots", 10, "Pictures per class of the few-shot probe; 0 leaves it out.")


def tables(found: Mapping[str, Any]) -> list[str]:
    """The evaluation as lines of text."""
    if "scores" in found:
        return _scores(found)
    lines = [f"{'':24}{'accuracy':>10}{'error':>8}{'pictures':>10}"]
    entries = [("overall", found["accuracy"]["all"])]
    entries += [(f"domain {k}", v) for k, v in found["accuracy"]["domains"].items()]
    entries += [(f"  {k}", v) for k, v in found["accuracy"]["classes"].items()]
    lines += [
        f"{name[:23]:24}{100 * e['accuracy']:>8.1f} %{100 * e['standard_error']:>8.1f}{e['count']:>10}"
        for name, e in entries
    ]
    values = found["calibration"]
    lines += [
        "",
        f"calibration: ECE {100 * values['ece']:.1f} %, NLL {values['nll']:.3f} nats, Brier {values['brier']:.3f}",
    ]
    if few := found["few_shot"]:
        error = "" if few["standard_error"] is None else f" ± {100 * few['standard_error']:.1f}"
        lines.append(f"{few['shots']}-shot ridge: {100 * few['accuracy']:.1f}{error} % over {few['draws']} draws")
    if found["routing"]:
        lines += ["", *_routing(found["routing"])]
    costs = found["summary"]
    text = f"{costs['total_params']:,} parameters, {costs['activated_params']:,} activated"
    return [*lines, "", f"{text}, {costs['flops_per_example']:,} FLOPs per picture"]


def _scores(found: Mapping[str, Any]) -> list[str]:
    """Of a task without classes."""
    lines = [f"{name:24}{value:>12.4f}" for name, value in found["scores"].items()]
    if data := {name: found["data"].get(name) for name in ("fingerprint", "origin") if found["data"].get(name)}:
        lines += ["", "text: " + ", ".join(f"{name} {value}" for name, value in data.items())]
    if found["routing"]:
        lines += ["", *_routing(found["routing"], "token")]
    costs = found["summary"]
    text = f"{costs['total_params']:,} parameters, {costs['activated_params']:,} activated"
    return [*lines, "", f"{text}, {costs['flops_per_example']:,} FLOPs per example"]


def _routing(layers: Mapping[str, Any], known: str = "class") -> list[str]:
    names = ("entropy", "margin", "dropped", "unserved", "padding")
    lines = [
        "routing   " + "".join(f"{n:>10}" for n in (*names, "dead")) + f"{f'I(E;{known})':>12}" + "   realised load (%)"
    ]
    for block, layer in layers.items():
        cells = "".join(_cell(layer["metrics"].get(name)) for name in names)
        load = " ".join(f"{100 * share:.0f}" for share in layer["realised_load"])
        lines.append(f"{block:10}{cells}{layer['dead_experts']:>10.3f}{layer['mutual_information']:>12.3f}   {load}")
    return [*lines, f"entropy in nats, I(expert; {known}) in bits, the others are fractions"]


def _cell(value: Any) -> str:
    return f"{value:>10.3f}" if isinstance(value, float) else f"{'-':>10}"


def main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    try:
        few_shot = FewShot(shots=_SHOTS.value) if _SHOTS.value else None
        run = FinishedRun.load(_WORKDIR.value, _WHICH.value)
        found = run.evaluate(_SPLIT.value, few_shot)
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)
    print(f"{run.workdir}: {run.which} checkpoint, step {run.step}, split {_SPLIT.value}")
    print("\n".join(tables(found)))
    print(f"written: {run.workdir / 'evaluation.json'}")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=flag_errors.parse)
