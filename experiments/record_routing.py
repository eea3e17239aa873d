"""Records which experts the pictures of a split chose in a finished run, as a small file for plans and placements.

  python experiments/record_routing.py --workdir runs/vmoe --output experiments/results/routing_patchwork_vmoe.npz

The whole split is routed, then evenly thinned to --pictures. The format is that of moejax/evals/routing_traces.py.
Exit codes: 0 done, 1 no usable checkpoint, 2 a wrong option, or a run whose tokens choose no experts.
"""

import sys
from pathlib import Path

import flag_errors
from absl import app, flags, logging
from finished_runs import FinishedRun

from moejax.core.errors import SpecError
from moejax.evals import routing_traces
from moejax.train.checkpoints import CheckpointError
from moejax.train.memory import keep_freed_memory

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, as experiments/train.py left it.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write (.npz).")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data set.")
_WHICH = flags.DEFINE_enum("which", None, ["best", "last"], "Checkpoint; by default the one that the run's test took.")
_PICTURES = flags.DEFINE_integer("pictures", 768, "Pictures that are kept, evenly spread over the split.", 1)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    try:
        run = FinishedRun.load(_WORKDIR.value, _WHICH.value)
        source = f"{run.config.get('name', 'a model')}, {run.which} checkpoint of step {run.step}, seed {run.config['seed']}, {_SPLIT.value}"
        trace = routing_traces.record(
            run.model, run.params, run.state, run.dataset.eval_batches(_SPLIT.value),
            num_tokens=run.model.num_tokens, source=source,
        ).thinned(_PICTURES.value)  # fmt: skip
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)
    output = Path(str(_OUTPUT.value))
    routing_traces.save(output, trace)
    layers, tokens, choices = trace.choices.shape
    print(f"{source}: {layers} layers, {tokens} tokens, {choices} of {trace.num_experts} experts each")
    for block, load in zip(trace.blocks, trace.loads(), strict=True):
        print(f"  {block}: the busiest expert has {load.max() * trace.num_experts:.2f} times the mean load")
    print(f"written: {output} ({output.stat().st_size} bytes)")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "output"])
    app.run(main, flags_parser=flag_errors.parse)
