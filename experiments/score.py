"""Scores files of generated pictures against real ones: Fréchet and kernel distance, precision, recall, density,
coverage, and how often a classifier sees the class that was asked for. Real pictures are scored in the same way.

  python experiments/score.py --samples a.npz b.npz --classifier runs/classifier --reference test
  python experiments/score.py --samples a.npz --classifier runs/classifier --inception inception.safetensors \
      --reference train --floor test --output scores.json

Sample files hold 'samples' (uint8 [n h w c]) and 'label' (int [n]); experiments/sample.py writes them. Reference and floor
are a split of the classifier's data set, a sample file of real pictures, or a file of reference statistics.
Exit codes: 0 done, 1 no usable checkpoint, 2 a wrong option or file.
"""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import flag_errors
from absl import app, flags, logging
from finished_runs import FinishedRun

from moejax.core.errors import SpecError
from moejax.evals.evaluation import environment
from moejax.evals.feature_extractors import Extractor
from moejax.evals.generation import compare
from moejax.evals.generation_table import table
from moejax.evals.inception import InceptionFeatures
from moejax.evals.npz_files import read_arrays
from moejax.evals.reference_statistics import FORMAT, ReferenceStatistics, cached_reference, read_reference
from moejax.evals.sample_files import read_samples
from moejax.tasks.classification import Classification
from moejax.train.checkpoints import CheckpointError
from moejax.train.memory import keep_freed_memory

_SAMPLES = flags.DEFINE_multi_string("samples", [], "Files of samples; more may follow without the flag's name.")
_CLASSIFIER = flags.DEFINE_string("classifier", None, "Folder of a classifier's run, trained on the same data.")
_WHICH = flags.DEFINE_enum("which", None, ["best", "last"], "The classifier's checkpoint; default: what its test took.")
_INCEPTION = flags.DEFINE_string(
    "inception", None, "Weights of the FID network as safetensors; see evals/inception.py."
)
_PREPROCESSING = flags.DEFINE_enum("preprocessing", "tensorflow", ["tensorflow", "pytorch_fid"], "For --inception.")
_REFERENCE = flags.DEFINE_string("reference", "test", "SPLIT of the classifier's data, or a file.")
_FLOOR = flags.DEFINE_string("floor", None, "SPLIT or file of other real pictures; default: half of the reference.")
_NEIGHBOURS = flags.DEFINE_integer("neighbours", 5, "k of precision, recall, density and coverage.", 1)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Chooses the pictures that are held out, and the blocks of the kernel distance."
)
_CACHE = flags.DEFINE_string(
    "cache", None, "Folder of reference statistics; default: reference/ in the classifier's run."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file; default: scores.json beside the first file of samples.")


def extractors(run: FinishedRun) -> list[Extractor]:
    """The classifier, and Inception where its weights are given."""
    found: list[Extractor] = [run.features()]
    if _INCEPTION.value:
        found.append(InceptionFeatures(_INCEPTION.value, preprocessing=_PREPROCESSING.value))
    return found


def real_pictures(run: FinishedRun, source: str, extractor: Extractor) -> ReferenceStatistics:
    """The reference that `source` names: a file of statistics, a file of pictures, or a split."""
    cache = _CACHE.value or run.workdir / "reference"
    remember = functools.partial(cached_reference, extractor, folder=cache)
    if source in run.dataset.info.split_sizes:
        return remember(*run.dataset.examples(source), name=f"{run.dataset.info.name}/{source}")
    if not Path(source).is_file():
        splits = ", ".join(run.dataset.info.split_sizes)
        raise SpecError(f"{source!r} is neither a file nor a split of {run.dataset.info.name} ({splits}).")
    arrays = read_arrays(source, (), what="real pictures", remedy="Give a split, or a file of samples.")
    if str(arrays.get("format")) == FORMAT:
        return read_reference(source)
    pictures = read_samples(source)
    return remember(pictures.samples, pictures.label, name=Path(source).name)


def main(arguments: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    paths = [*_SAMPLES.value, *arguments[1:]]
    try:
        if not paths:
            raise SpecError("--samples names no file.")
        names = {path: Path(path).name for path in paths}
        unique = len(set(names.values())) == len(paths)
        files = {names[path] if unique else path: read_samples(path) for path in paths}
        run = FinishedRun.of_task(Classification, str(_CLASSIFIER.value), _WHICH.value, flag="classifier")
        found = []
        for extractor in extractors(run):
            reference = real_pictures(run, _REFERENCE.value, extractor)
            real = real_pictures(run, _FLOOR.value, extractor) if _FLOOR.value else None
            options = {"neighbours": _NEIGHBOURS.value, "seed": _SEED.value}
            found.append(compare(files, extractor, reference, real=real, **options))
            print("\n".join([*table(found[-1]), ""]), flush=True)
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)
    target = Path(_OUTPUT.value or Path(paths[0]).parent / "scores.json")
    content = {"comparisons": [comparison.to_dict() for comparison in found], "environment": environment()}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(target)
    print(f"written: {target}")


if __name__ == "__main__":
    flags.mark_flag_as_required("classifier")
    app.run(main, flags_parser=flag_errors.parse_with_names)
