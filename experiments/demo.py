"""The demo: a dense ViT, V-MoE, expert choice and Soft MoE on real pictures at equal activated compute, and a report.

  python experiments/demo.py
  python experiments/demo.py --workdir demo --minutes 9 --seeds 1

An interrupted demo goes on where it stopped when the same command is given again.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flag_errors
from absl import app, flags, logging
from shared_compilation import share_compiled
from side_by_side import Job, cores, pinned, run_or_exit

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "vit" / "patchwork.py"
MODELS = ("dense", "vmoe", "expert_choice", "soft")
START = 20.0  # seconds that a run needs beside its steps, and the report in all, on two cores
REPORT = 75.0
CROWDED = 1.15  # how much longer a step takes while all cores are busy
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
    begin = time.monotonic()
    print("measuring the time of a training step on one core (compiles every model once) ...", flush=True)
    with pinned(0):  # before jax starts its threads: their number, and so the compiled program, is that of the runs
        import jax
        from step_times import measure, read_config

        from moejax.train.memory import keep_freed_memory

        keep_freed_memory()
        configs = {model: read_config(CONFIG, config_argument(model, 0, None, smoke)) for model in MODELS}
        timed = measure(configs, rounds=1 if smoke else 7)
    slots = min(cores(), len(MODELS) * seeds) if jax.default_backend() == "cpu" else 1  # an accelerator is not shared
    names = {model: configs[model]["name"] for model in MODELS}
    wanted = int(configs["dense"]["train"]["steps"])
    left = 60 * minutes - (time.monotonic() - begin) - REPORT - START * len(MODELS) * seeds / slots
    crowd = CROWDED / slots if slots > 1 else 1.0
    seconds = SLACK * crowd * seeds * sum(timed.milliseconds.values()) / 1000
    steps = wanted if smoke else max(min(wanted, int(left / seconds) // 10 * 10), 100)
    found = {"steps": steps, "wanted": wanted, "seeds": seeds, "smoke": smoke, "slots": slots}
    found["seconds"] = steps * seconds
    milliseconds = {names[model]: value for model, value in timed.milliseconds.items()}
    (workdir / "timing.json").write_text(
        json.dumps({"milliseconds": milliseconds, "how": f"{timed.how}, on one core"}, indent=1)
    )
    path.write_text(json.dumps(found, indent=1))
    for model, value in timed.milliseconds.items():
        print(f"  {model:15}{value:7.1f} ms per step")
    return found


def announce(found: dict[str, Any]) -> None:
    """Says what follows and how long it takes."""
    total = (found["seconds"] + START * len(MODELS) * found["seeds"] / found["slots"] + REPORT) / 60
    print(
        f"training {len(MODELS)} models x {found['seeds']} seed(s), {found['steps']} steps each; about {total:.0f} minutes in all"
    )
    if found["steps"] < found["wanted"]:
        print(f"  (the recipe has {found['wanted']} steps; shortened to fit --minutes, accuracy will be lower)")


def train(workdir: Path, found: dict[str, Any]) -> None:
    """Trains what is not finished: as many models side by side as there are cores, one core each.

    A run then starts, compiles and evaluates while another makes steps.
    """
    jobs = []
    for seed in range(found["seeds"]):
        for model in MODELS:
            argument = config_argument(model, seed, found["steps"], found["smoke"])
            folder = workdir / model / f"seed_{seed}"
            often = max(found["steps"] // 10, 1)
            jobs.append(
                Job(
                    name=f"{model} {seed}" if found["seeds"] > 1 else model,
                    command=[str(HERE / "train.py"), "--quiet", "--config", f"{CONFIG}:{argument}", "--workdir", str(folder),
                             f"--config.train.eval_every={often}", f"--config.train.log_every={max(often // 5, 1)}"],
                    folder=folder,
                )
            )  # fmt: skip
    run_or_exit(jobs, slots=found["slots"], steps=found["steps"])


def main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    workdir = Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    share_compiled(workdir)
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
    if code := subprocess.call([sys.executable, str(HERE / "report.py"), "--workdir", str(workdir)]):
        sys.exit(code)
    print(
        f"done in {(time.monotonic() - begin) / 60:.1f} minutes; open {workdir / 'report' / 'report.html'} in a browser"
    )


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
