"""Samples pictures from a finished diffusion run: a grid of all classes, the denoising as an animation, and files of samples.

  python experiments/sample.py --checkpoint runs/dit --output samples/dit --guidance 2
  python experiments/sample.py --checkpoint runs/dit --output samples/sweep --guidance 1,1.5,2,3 --sampler dpm_solver_pp
  python experiments/sample.py --checkpoint runs/dit --output samples/many --per_class 500 --noanimation

Writes grid.png, denoising.gif and samples.npz ('samples' uint8 [n h w c], 'label' int32 [n]); with several guidance scales
grid-S.png and samples-S.npz of each scale S, and sweep.png. The same seed gives the same noise at every scale, sampler and
number of steps. A model of latents needs --autoencoder, the safetensors file that the latents were made with. Exit codes: 0 done, 1 no usable checkpoint, 2 what cannot be built.
"""

import functools
import json
import sys
import time
from pathlib import Path

import flag_errors
import jax
import numpy as np
from absl import app, flags, logging
from finished_runs import FinishedRun

from moejax.core.errors import SpecError, did_you_mean
from moejax.core.spec import build_method
from moejax.diffusion.guidance import Guidance
from moejax.evals.picture_grid import grid_figure, write_animation
from moejax.evals.sample_files import SampleFile, write_samples
from moejax.evals.sampling import Decode, Generator, labels_of, to_bytes
from moejax.interop.autoencoder_kl import load_params
from moejax.models.autoencoder_kl import AutoencoderKL
from moejax.tasks.diffusion import Diffusion
from moejax.train.checkpoints import CheckpointError
from moejax.train.memory import keep_freed_memory

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the run.")
_WHICH = flags.DEFINE_enum("which", None, ["best", "last"], "Checkpoint; by default the one that the run's test took.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.")
_SAMPLER = flags.DEFINE_string("sampler", "heun", "A file of moejax/diffusion/samplers.")
_STEPS = flags.DEFINE_integer("steps", 20, "Steps of the sampler.", lower_bound=1)
_GUIDANCE = flags.DEFINE_list("guidance", ["1"], "Guidance scales; 1 is none.")
_INTERVAL = flags.DEFINE_list("interval", ["0", "1"], "Times between which guidance acts.")
_SCHEDULE = flags.DEFINE_string("schedule", "constant", "How the guidance scale depends on time.")
_TANGENTIAL = flags.DEFINE_boolean("tangential", False, "Tangential damping of the unconditional estimate.")
_CLASSES = flags.DEFINE_list("classes", None, "Names or numbers of classes; by default all.")
_PER_CLASS = flags.DEFINE_integer("per_class", 10, "Pictures of each class.", lower_bound=1)
_COLUMNS = flags.DEFINE_integer("columns", 10, "Pictures of each class in the grid, at most.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Pictures computed together.", lower_bound=1)
_AUTOENCODER = flags.DEFINE_string("autoencoder", None, "Weights of Stable Diffusion's autoencoder, for latents.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise.")
_ANIMATION = flags.DEFINE_boolean("animation", True, "Write denoising.gif.")


def decoder(run: FinishedRun) -> Decode | None:
    """What makes pictures of the run's latents; None where it samples pictures. Raises SpecError where one has no file."""
    latents = run.config["data"]["name"] == "latents"
    if latents and _AUTOENCODER.value is None:
        raise SpecError(f"{run.workdir} samples latents: give --autoencoder, the file that its cache was written with.")
    if not latents or _AUTOENCODER.value is None:
        return None
    model = AutoencoderKL()
    return functools.partial(jax.jit(model.decode), load_params(_AUTOENCODER.value, model))


def chosen_classes(names: tuple[str, ...]) -> list[int]:
    """The numbers of the classes that --classes names."""
    found = []
    for one in _CLASSES.value or map(str, range(len(names))):
        if not (one.isdigit() and int(one) < len(names)) and one not in names:
            raise SpecError(f"--classes: {one!r} is no class.{did_you_mean(one, names)}")
        found.append(int(one) if one.isdigit() else names.index(one))
    return found


def number(text: str, flag: str) -> float:
    """A number from the command line."""
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"--{flag}: {text!r} is no number.") from None


def sample(run: FinishedRun, output: Path) -> None:
    """All that the flags ask for."""
    names = run.dataset.info.class_names
    classes = chosen_classes(names)
    labels = labels_of(classes, _PER_CLASS.value)
    sampler = build_method("diffusion.samplers", {"name": _SAMPLER.value, "num_steps": _STEPS.value}, path="sampler")
    low, high = (number(text, "interval") for text in (*_INTERVAL.value, "1")[:2])
    columns = min(_COLUMNS.value, _PER_CLASS.value)
    shown = np.concatenate([np.arange(columns) + i * _PER_CLASS.value for i in range(len(classes))])
    decode = decoder(run)
    rows, scales = [], [number(text, "guidance") for text in _GUIDANCE.value]
    for scale in scales:
        guidance = Guidance(scale=scale, interval=(low, high), schedule=_SCHEDULE.value, tangential=_TANGENTIAL.value)
        generator = Generator(run.task, run.params, run.state, sampler, guidance, min(_BATCH.value, len(labels)))
        begin = time.perf_counter()
        found = generator.sample(labels, seed=_SEED.value)
        seconds, end = time.perf_counter() - begin, f"-{scale:g}" if len(scales) > 1 else ""
        pictures = to_bytes(found.x, decode)
        facts = {"sampler": _SAMPLER.value, "steps": _STEPS.value, "evaluations": sampler.evaluations, "guidance": scale,
                 "interval": [low, high], "schedule": _SCHEDULE.value, "tangential": _TANGENTIAL.value,
                 "seed": _SEED.value, "run": run.workdir.name, "step": run.step}  # fmt: skip
        write_samples(
            output / f"samples{end}.npz", SampleFile(pictures, labels, {"facts": np.array(json.dumps(facts))})
        )
        title = f"{run.workdir.name}: {_SAMPLER.value}, {sampler.evaluations} evaluations, guidance {scale:g}"
        figure = grid_figure(pictures[shown], columns, [names[c] for c in classes], title=title)
        figure.savefig(output / f"grid{end}.png", dpi=150)
        rows.append(pictures[:: _PER_CLASS.value])
        print(f"guidance {scale:g}: {len(labels)} pictures in {seconds:.1f} s, {sampler.evaluations} evaluations each")
    if len(scales) > 1:
        figure = grid_figure(np.concatenate(rows), len(classes), [f"guidance {s:g}" for s in scales])
        figure.savefig(output / "sweep.png", dpi=150)
    if _ANIMATION.value:
        small = Generator(run.task, run.params, run.state, sampler, guidance, len(shown))
        path = small.sample(labels[shown], seed=_SEED.value, record=True).path
        write_animation(np.stack([to_bytes(x, decode) for x in path]), output / "denoising.gif", columns=columns)
    print(f"written to {output}")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    try:
        run = FinishedRun.of_task(Diffusion, str(_CHECKPOINT.value), _WHICH.value, flag="checkpoint")
        output = Path(str(_OUTPUT.value))
        output.mkdir(parents=True, exist_ok=True)
        sample(run, output)
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)


if __name__ == "__main__":
    flags.mark_flags_as_required(["checkpoint", "output"])
    app.run(main, flags_parser=flag_errors.parse)
