"""Converts weights from one format to another, and on the way to another model by rules over leaf names.

  python experiments/convert.py --from vmoe --input ckpts/vmoe_b16 --to run --output runs/b16 --write data=cifar10
  python experiments/convert.py --from run --input runs/vmoe --to safetensors --output vmoe.safetensors
  python experiments/convert.py --from run --input runs/vmoe --to jaxexport --output vmoe.jaxexport --write batch=any
  python experiments/convert.py --from vit_npz --input B_16.npz --to run --output runs/upcycled \
      --target moe_layers=every2 --target 'moe={"router": {"name": "top_k", "num_experts": 8, "num_selected_experts": 2,
      "renormalize": true}, "experts": {"name": "mlp", "expert_dim": 3072}}' \
      --rules '[["moe/experts", "copy_experts"], ["moe/router", "fresh"], ["^head", "fresh"]]'
  python experiments/convert.py --from huggingface --input OLMoE-1B-7B --to run --output runs/olmoe \
      --config configs/lm/tokens.py --config.data.folder=tokens
  python experiments/convert.py --list

--model KEY=VALUE says what the weights do not tell (moe.router.num_selected_experts=1, num_heads=12); --target KEY=VALUE
makes another model of them, whose leaves --rules says (moejax/models/leaf_rules.py; inline JSON or a file of it). --read and
--write OPTION=VALUE are the formats' own options. --config FILE, with --to run, is the config that the run gets, but for its
model; a classifier of pictures needs none. Exit codes: 0 done, 1 no usable checkpoint, 2 what cannot be read, built or
written.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import flag_errors
import jax
from absl import app, flags, logging
from flag_values import options, read_rules, settings
from ml_collections import config_flags

from moejax.core.errors import SpecError
from moejax.core.spec import build_method
from moejax.core.tree import flatten
from moejax.interop.contract import Foreign, check_options, format_named, formats, overridden
from moejax.models.leaf_transfer import transfer
from moejax.train import run_format
from moejax.train.checkpoints import CheckpointError

_FROM = flags.DEFINE_string("from", None, "Format of the input; --list names them.")
_TO = flags.DEFINE_string("to", None, "Format of the output.")
_INPUT = flags.DEFINE_string("input", None, "Path of the input.")
_OUTPUT = flags.DEFINE_string("output", None, "Path of the output; an existing one is not overwritten.")
_MODEL = flags.DEFINE_multi_string("model", [], "KEY=VALUE of the model's config that the weights do not tell.")
_TARGET = flags.DEFINE_multi_string("target", [], "KEY=VALUE of the config in which another model differs.")
_RULES = flags.DEFINE_string("rules", None, "Rules for its leaves: JSON, or a file of it.")
_READ = flags.DEFINE_multi_string("read", [], "OPTION=VALUE of the input's format.")
_WRITE = flags.DEFINE_multi_string("write", [], "OPTION=VALUE of the output's format.")
_SEED = flags.DEFINE_integer("seed", 0, "Of leaves that are made anew.")
_CONFIG = config_flags.DEFINE_config_file("config", None, "Of a run that is written, but for its model.")
_LIST = flags.DEFINE_boolean("list", False, "Names the formats and ends.")


def known_formats() -> dict[str, ModuleType]:
    """The foreign formats, and a run's folder."""
    return {**formats(), "run": run_format}


def another(foreign: Foreign, target: dict[str, Any], rules: Sequence[Any], seed: int) -> Foreign:
    """The weights as those of the model that differs by `target`. Raises SpecError naming every leaf that does not fit."""
    config = overridden(foreign.model, target)
    spec = build_method("models", config, path="target")
    key = jax.random.key(seed)
    fresh, state = jax.jit(spec.init)(key)
    params, log = transfer(flatten(foreign.params), fresh, rules, key)
    print(*log, sep="\n")
    return dataclasses.replace(foreign, model=config, params=params, state=state)


def convert() -> None:
    """What the flags ask for. Raises SpecError and CheckpointError."""
    known = known_formats()
    for flag in (_FROM, _TO, _INPUT, _OUTPUT):
        if flag.value is None:
            raise SpecError(f"--{flag.name} is needed; --list names the formats.")
    source, sink = format_named(str(_FROM.value), known), format_named(str(_TO.value), known, does="write")
    reading, writing = options(_READ.value, "read"), options(_WRITE.value, "write")
    check_options(source.read, reading, what=f"--read of {_FROM.value}")
    check_options(sink.write, writing, what=f"--write to {_TO.value}")
    output = Path(str(_OUTPUT.value))
    if any(place.exists() for place in (output, Path(f"{output}.index"))):
        raise SpecError(f"--output {output} exists; nothing is overwritten.")
    rules, target = read_rules(_RULES.value), settings(_TARGET.value, "target")
    run = _CONFIG.value
    if run is not None and sink is not run_format:
        raise SpecError(f"--config is of a run that is written, with --to run, not with --to {_TO.value}.")
    foreign = source.read(_INPUT.value, model=settings(_MODEL.value, "model"), **reading)
    if run is not None:
        foreign = dataclasses.replace(foreign, run={k: v for k, v in run.to_dict().items() if k != "model"})
    for note in foreign.notes:
        print(f"note: {note}")
    if rules or target:
        foreign = another(foreign, target, rules, _SEED.value)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    sink.write(foreign, output, **writing)
    count = sum(leaf.size for leaf in jax.tree.leaves(foreign.params))
    print(f"{_INPUT.value} ({_FROM.value}) -> {output} ({_TO.value}): {foreign.model['name']}, {count:,} parameters")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if _LIST.value:
        print(*(f"{name:16}{module.FORMAT}" for name, module in sorted(known_formats().items())), sep="\n")
        return
    try:
        convert()
    except (SpecError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SpecError) else 1)


if __name__ == "__main__":
    app.run(main, flags_parser=flag_errors.parse)
