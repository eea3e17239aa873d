"""The diffusion demo: trains a small DiT-MoE on real photographs of garments, samples every class, and shows what experts do.

  python experiments/demo_diffusion.py
  python experiments/demo_diffusion.py --workdir demo_diffusion --minutes 14

Writes grid.png (rows of classes), denoising.gif, scores.json (how often a classifier that was trained on real pictures sees the
class that was asked for, with the same figure for real pictures; distances to real pictures with their floor) and usage/ (which
expert works at which time, place and class). An interrupted demo goes on where it stopped when the same command is given again.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import flag_errors
from absl import app, flags, logging
from shared_compilation import share_compiled

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"
RUN, CLASSIFIER = "dit_moe", "classifier"
AFTER = 150.0  # seconds for samples, scores and usage, on two cores
SLACK = 1.15  # data, evaluations and checkpoints, as a factor on the steps' time

_WORKDIR = flags.DEFINE_string("workdir", "demo_diffusion", "Folder for runs and pictures.")
_MINUTES = flags.DEFINE_float(
    "minutes", 14.0, "Time for everything. A slow machine takes fewer steps.", lower_bound=0.0
)
_GUIDANCE = flags.DEFINE_float("guidance", 2.5, "Scale of classifier-free guidance.", lower_bound=0.0)
_PER_CLASS = flags.DEFINE_integer("per_class", 50, "Pictures of each class that are scored.", lower_bound=1)
_SMOKE = flags.DEFINE_boolean("smoke", False, "Two steps of tiny models: does everything work?")


def call(script: str, *arguments: str) -> None:
    """Runs another experiment; ends the demo where it fails."""
    code = subprocess.call([sys.executable, str(HERE / script), *arguments])
    if code:
        print(f"stopped in {script} (exit code {code}); the same command goes on from here.", file=sys.stderr)
        sys.exit(code if 0 < code < 256 else 1)


def argument(*parts: str) -> str:
    """The argument of a config."""
    return ":" + ",".join([*parts, *(["smoke"] if _SMOKE.value else [])])


def steps_that_fit(workdir: Path, seconds: float) -> int:
    """Training steps for the time that is left, by the measured time of one; kept in plan.json for a resumed demo."""
    path = workdir / "plan.json"
    if path.exists():
        return int(json.loads(path.read_text())["steps"])
    from step_times import measure, read_config

    print("measuring the time of a training step (compiles the model once) ...", flush=True)
    begin = time.monotonic()
    config = read_config(CONFIGS / "dit" / "garments.py", argument("model=moe")[1:])
    timed = measure({RUN: config}, rounds=1 if _SMOKE.value else 5)
    wanted, milliseconds = int(config["train"]["steps"]), timed.milliseconds[RUN]
    left = seconds - (time.monotonic() - begin)
    steps = wanted if _SMOKE.value else max(min(wanted, int(1000 * left / (SLACK * milliseconds)) // 50 * 50), 100)
    path.write_text(json.dumps({"steps": steps, "wanted": wanted, "milliseconds": milliseconds, "how": timed.how}))
    print(f"  {milliseconds:.0f} ms per step; {steps} of the recipe's {wanted} steps fit")
    return steps


def main(_: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    workdir = Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    share_compiled(workdir, one_thread=False)
    begin = time.monotonic()
    print(
        "moejax diffusion demo: a DiT-MoE learns 9,000 photographs of garments (28x28, 10 classes), and a classifier learns to\n"
        f"judge it. At most about {_MINUTES.value:g} minutes; results go to {workdir}/.",
        flush=True,
    )
    print("training the classifier", flush=True)
    call(
        "train.py", "--config", f"{CONFIGS / 'vit' / 'garments.py'}{argument()}", "--workdir", str(workdir / CLASSIFIER)
    )
    steps = steps_that_fit(workdir, 60 * _MINUTES.value - AFTER - (time.monotonic() - begin))
    print("training the DiT-MoE", flush=True)
    config = f"{CONFIGS / 'dit' / 'garments.py'}{argument('model=moe', f'steps={steps}')}"
    call("train.py", "--config", config, "--workdir", str(workdir / RUN))
    print("sampling", flush=True)
    call("sample.py", "--checkpoint", str(workdir / RUN), "--output", str(workdir), f"--guidance={_GUIDANCE.value}", "--sampler=dpm_solver_pp",
         f"--per_class={2 if _SMOKE.value else _PER_CLASS.value}", *(["--steps=2"] if _SMOKE.value else []))  # fmt: skip
    print("scoring", flush=True)
    call("score.py", "--samples", str(workdir / "samples.npz"), "--classifier", str(workdir / CLASSIFIER))
    print("watching the experts", flush=True)
    call("expert_usage.py", "--checkpoint", str(workdir / RUN), "--output", str(workdir / "usage"))
    print(
        f"done in {(time.monotonic() - begin) / 60:.1f} minutes; look at {workdir / 'grid.png'}, {workdir / 'denoising.gif'} and "
        f"{workdir / 'usage'}/"
    )


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
