"""What a trained model loses when its experts are given less room at inference, and tokens are dropped or sent on.

  python experiments/overflow.py --workdir runs/vmoe --output experiments/results/overflow_vmoe.json

Prints a table and writes it as JSON. Exit codes: 0 done, 1 no usable checkpoint, 2 a wrong option.
"""

import json
import sys
from pathlib import Path

import flag_errors
from absl import app, flags, logging
from finished_runs import FinishedRun

from moejax.core.errors import SpecError
from moejax.evals.evaluation import environment
from moejax.evals.overflow_table import lines_of, overflow_table
from moejax.tasks.classification import Classification
from moejax.train.checkpoints import CheckpointError
from moejax.train.memory import keep_freed_memory

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, as experiments/train.py left it.")
_WHICH = flags.DEFINE_enum("which", None, ["best", "last"], "Checkpoint; by default the one that the run's test took.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the data set to evaluate on.")
_FACTORS = flags.DEFINE_list("factors", ["2", "1.5", "1.25", "1", "0.75", "0.5"], "Capacity factors, larger than 0.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; None prints only.")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    try:
        run = FinishedRun.of_task(Classification, str(_WORKDIR.value), _WHICH.value, flag="workdir")
        batches = run.dataset.eval_batches(_SPLIT.value)
        factors = tuple(float(factor) for factor in _FACTORS.value)
        rows = overflow_table(run.model, run.params, run.state, batches, factors=factors)
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)
    print("\n".join(lines_of(rows)))
    if _OUTPUT.value is not None:
        path = Path(_OUTPUT.value)
        facts = {"model": run.config["name"], "seed": run.config["seed"], "step": run.step, "split": _SPLIT.value}
        text = json.dumps(facts | {"environment": environment(), "rows": rows}, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        print(f"written: {path}")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=flag_errors.parse)
