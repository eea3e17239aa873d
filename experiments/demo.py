"""The demo: a dense ViT, V-MoE, expert choice and Soft MoE on real pictures at equal activated compute, and a report.

  python experiments/demo.py
  python experiments/demo.py --workdir demo --minutes 9 --seeds 1

An interrupted demo goes on where it stopped when the same command is given again.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flag_errors
from absl import app, flags, logging

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "vit" / "patchwork.py"
MODELS = ("dense", "vmoe", "expert_choice", "soft")
START = 20.0  # seconds that a run needs beside its steps, and the report in all, on two cores
REPORT = 75.0
SLACK = 1.2  # data loading, evaluations and checkpoints, as a factor on the steps' time

_WORKDIR = flags.DEFINE_string("workdir", "demo", "Folder for runs and report.")
_MINUTES = flags.DEFINE_float("minutes", 9.0, "Time for training and report. A slow machine takes fewer steps; all models "
                              "take the same number.", lower_bound=0.0)  # fmt: skip
_SEEDS = flags.DEFINE_integer(
    "seeds", 1, "Runs of every model, each with its own seed; they share the time.", lower_bound=1
)
_SMOKE = flags.DEFINE_boolean("smoke", False, "Two steps of tiny models: does everything work?")


def config_argument(model: str, seed: int, steps: int | None, smoke: bool) -> str:
    """The argument of configs/vit/patchwork.py for one run."""
    parts = [f"model={model}", f"seed={seed}", *([f"steps={steps}"] if steps else []), *(["smoke"] if smoke else [])]
    return ",".join(parts)


def plan(workdir: Path, minutes: float, seeds: int, smoke: bool) -> dict[str, Any]:
    """Steps of every run, from the measured time of a step; kept in plan.json, so that a resumed demo keeps to it."""
    path = workdir / "plan.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found["smoke"] != smoke:
            sys.exit(
                f"error: {workdir} holds {'a smoke' if found['smoke'] else 'another'} demo; give another --workdir."
            )
        return found | {"seeds": seeds}
    from step_times import measure, read_config  # imports jax, after the cache of compiled programs is set

    from moejax.train.memory import keep_freed_memory

    keep_freed_memory()

    begin = time.monotonic()
    print("measuring the time of a training step (compiles every model once) ...", flush=True)
    configs = {model: read_config(CONFIG, config_argument(model, 0, None, smoke)) for model in MODELS}
    timed = measure(configs, rounds=1 if smoke else 7)
    names = {model: configs[model]["name"] for model in MODELS}
    wanted = int(configs["dense"]["train"]["steps"])
    left = 60 * minutes - (time.monotonic() - begin) - REPORT - START * len(MODELS) * seeds
    seconds = SLACK * seeds * sum(timed.milliseconds.values()) / 1000
    steps = wanted if smoke else max(min(wanted, int(left / seconds) // 10 * 10), 100)
    found = {"steps": steps, "wanted": wanted, "seeds": seeds, "smoke": smoke, "seconds": steps * seconds}
    milliseconds = {names[model]: value for model, value in timed.milliseconds.items()}
    (workdir / "timing.json").write_text(json.dumps({"milliseconds": milliseconds, "how": timed.how}, indent=1))
    path.write_text(json.dumps(found, indent=1))
    for model, value in timed.milliseconds.items():
        print(f"  {model:15}{value:7.1f} ms per step")
    return found


def announce(found: dict[str, Any]) -> None:
    """Says what follows and how long it takes."""
    total = (found["seconds"] + START * len(MODELS) * found["seeds"] + REPORT) / 60
    print(
        f"training {len(MODELS)} models x {found['seeds']} seed(s), {found['steps']} steps each; about {total:.0f} minutes in all"
    )
    if found["steps"] < found["wanted"]:
        print(f"  (the recipe has {found['wanted']} steps; shortened to fit --minutes, accuracy will be lower)")


def run(command: Sequence[str]) -> int:
    """Runs a script of this folder; when interrupted, waits until it has saved."""
    process = subprocess.Popen([sys.executable, *command])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            print("\ninterrupted; waiting for the run to save its state ...", flush=True)
            process.send_signal(signal.SIGTERM)


def train(workdir: Path, found: dict[str, Any]) -> None:
    """Trains what is not finished, model after model."""
    order = [(seed, model) for seed in range(found["seeds"]) for model in MODELS]
    for index, (seed, model) in enumerate(order, 1):
        print(f"\n[{index}/{len(order)}] {model}, seed {seed}", flush=True)
        argument = config_argument(model, seed, found["steps"], found["smoke"])
        often = max(found["steps"] // 25, 1)
        command = [
            str(HERE / "train.py"),
            "--config",
            f"{CONFIG}:{argument}",
            "--workdir",
            str(workdir / model / f"seed_{seed}"),
        ]
        code = run([*command, f"--config.train.eval_every={often}", f"--config.train.log_every={often}"])
        if code:
            print(
                f"\nstopped at {model}, seed {seed} (exit code {code}); the same command goes on from here.",
                file=sys.stderr,
            )
            sys.exit(code if 0 < code < 256 else 1)


def main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    workdir = Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(workdir.resolve() / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    begin = time.monotonic()
    print(
        "moejax demo: trains a dense ViT, V-MoE, expert choice and Soft MoE on patchwork (13,736 pictures of garments, "
        f"pictograms\nand digits, 29 classes), then writes a report. At most about {_MINUTES.value:g} minutes; results go "
        f"to {workdir}/.",
        flush=True,
    )
    found = plan(workdir, _MINUTES.value, _SEEDS.value, _SMOKE.value)
    announce(found)
    train(workdir, found)
    print("\nwriting the report", flush=True)
    if code := run([str(HERE / "report.py"), "--workdir", str(workdir)]):
        sys.exit(code)
    print(
        f"done in {(time.monotonic() - begin) / 60:.1f} minutes; open {workdir / 'report' / 'report.html'} in a browser"
    )


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
