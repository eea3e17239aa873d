"""Which expert of a finished diffusion run works at which time, place and class; three published observations tested on it.

  python experiments/expert_usage.py --checkpoint runs/dit_moe --output usage/dit_moe
  python experiments/expert_usage.py --checkpoint runs/dit_moe --output usage/dit_moe --pictures 1000 --times 20 --nosampling

Experts are watched on noised real pictures, along the model's own sampling (--sampling), and on noised pictures before any
training (--control): a router that nobody trained already goes by place, since places have their own vectors. Writes arrays (npz), heat
maps over time, picture and classes (png), observations.json and expert_usage.md.
Exit codes: 0 done, 1 no usable checkpoint, 2 a wrong option, or a run without experts.
"""

import sys
from pathlib import Path

import flag_errors
import jax
import numpy as np
from absl import app, flags, logging
from finished_runs import FinishedRun

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.diffusion.guidance import Guidance
from moejax.evals.expert_usage import Usage, Watcher, time_grid
from moejax.evals.sampling import Generator
from moejax.evals.usage_report import write_usage_report
from moejax.tasks.diffusion import Diffusion
from moejax.train.checkpoints import CheckpointError
from moejax.train.memory import keep_freed_memory

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Folder of the run.")
_WHICH = flags.DEFINE_enum("which", None, ["best", "last"], "Checkpoint; by default the one that the run's test took.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data that real pictures are taken from.")
_PICTURES = flags.DEFINE_integer("pictures", 500, "Real pictures, at least; whole batches are taken.", 2)
_TIMES = flags.DEFINE_integer("times", 16, "Noise levels, evenly spread.", 1)
_SAMPLING = flags.DEFINE_boolean("sampling", True, "Also watch the model while it samples.")
_CONTROL = flags.DEFINE_boolean("control", True, "Also watch the same model with fresh parameters.")
_SAMPLES = flags.DEFINE_integer(
    "samples", 200, "Sampled pictures, all classes in turn; rounded up to whole batches.", 2
)
_SAMPLER = flags.DEFINE_string("sampler", "heun", "A file of moejax/diffusion/samplers.")
_STEPS = flags.DEFINE_integer("steps", 20, "Steps of the sampler.", 1)
_GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Guidance scale of the sampling; 1 is none.")
_BATCH = flags.DEFINE_integer("batch_size", 50, "Pictures sampled together.", 1)
_DRAWS = flags.DEFINE_integer("draws", 100, "Shuffles, and resamplings, behind chance levels and intervals.", 20)
_SEED = flags.DEFINE_integer("seed", 0, "Of noise, shuffles and resamplings.")


def on_pictures(run: FinishedRun, watcher: Watcher) -> Usage:
    """Usage on noised real pictures."""
    return watcher.noised_pictures(
        run.dataset.eval_batches(_SPLIT.value),
        times=time_grid(run.task.process, _TIMES.value),
        max_pictures=_PICTURES.value,
        seed=_SEED.value,
    )


def along_sampling(run: FinishedRun, watcher: Watcher) -> Usage:
    """Usage at the states that the network was asked about while it sampled."""
    sampler = build_method("diffusion.samplers", {"name": _SAMPLER.value, "num_steps": _STEPS.value}, path="sampler")
    guidance = Guidance(scale=_GUIDANCE.value)
    size = _BATCH.value
    generator = Generator(run.task, run.params, run.state, sampler, guidance, size)
    batches = -(-_SAMPLES.value // size)
    labels = np.arange(batches * size, dtype=np.int32) % run.model.num_classes
    path = generator.sample(labels, seed=_SEED.value, record=True).path
    parts = [slice(i * size, (i + 1) * size) for i in range(batches)]
    # The last state is the picture itself, which the network is never asked about.
    paths = ((np.asarray(path)[:-1, part], labels[part]) for part in parts)
    return watcher.trajectories(paths, times=sampler.times(run.task.process)[:-1])


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    try:
        run = FinishedRun.of_task(Diffusion, str(_CHECKPOINT.value), _WHICH.value, flag="checkpoint")
        watcher = Watcher(run.model, run.task.process, run.params, run.state)
        usages = {"noised pictures": on_pictures(run, watcher)}
        if _SAMPLING.value:
            usages["sampling"] = along_sampling(run, watcher)
        if _CONTROL.value:
            fresh = Watcher(run.model, run.task.process, *run.task.init(jax.random.key(_SEED.value)))
            usages["noised pictures, untrained"] = on_pictures(run, fresh)
        facts = {"checkpoint": f"{run.which}, step {run.step}", "real pictures": f"split {_SPLIT.value}",
                 "sampler": f"{_SAMPLER.value}, {_STEPS.value} steps, guidance {_GUIDANCE.value:g}"}  # fmt: skip
        page = write_usage_report(
            Path(str(_OUTPUT.value)), usages, model=run.workdir.name, class_names=run.dataset.info.class_names,
            draws=_DRAWS.value, seed=_SEED.value, facts=facts,
        )  # fmt: skip
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)
    lines = page.read_text().splitlines()
    print("\n".join(lines[: lines.index("![what the expert tells](tells.png)")]))
    print(f"written: {page}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["checkpoint", "output"])
    app.run(main, flags_parser=flag_errors.parse)
