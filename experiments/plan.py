"""What a training step costs on chips that are not here: memory, communication and bounds on its time, per mesh.

  python experiments/plan.py --config configs/vit/vmoe_paper.py:size=H/14,moe=every2 --topology v5p:4x4x4 \
      --mesh data=2,expert=32 --mesh data=2,fsdp=2,expert=16
  python experiments/plan.py --config configs/dit/dit_moe_paper.py:size=XL/2 --topology h100:8x8 --mesh fsdp=8,expert=8 --json
  python experiments/plan.py --config configs/lm/published.py:size=Mixtral-8x7B --topology v5p:4x4x8 --mesh fsdp=16,expert=8

The step is compiled for the real chips: TPUs with the extra [tpu-aot], H100s with [gpu-aot]. Where the compiler is not
installed, memory is arithmetic over shapes, communication is not counted, and the output says so. Nothing is run; seconds
are bounds from below. --fast compiles with few optimisations: two to three times faster, and more bytes on the wire.
Exit codes: 0 one mesh fits, 1 none does, 2 a config, topology or mesh that cannot be.
"""

import json
import os
import sys
from typing import Any

import flag_errors
from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:arguments] of the config; see configs/.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Chips, such as v5p:4x4x4, v5e:16x16, h100:8x8 (hosts x GPUs).")
_MESH = flags.DEFINE_multi_string(
    "mesh", None, "Sizes such as data=2,expert=8; several are compared. Default: the config's."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Over all chips; default: config.data.batch_size.", 1)
_FAST = flags.DEFINE_boolean("fast", False, "Few optimisations.")
_JSON = flags.DEFINE_boolean("json", False, "Print JSON instead of a table.")
_PICTURE = flags.DEFINE_string("picture", None, "PNG file: memory by kind and bounds on the time, a bar per mesh.")


def meshes(texts: list[str] | None, default: Any) -> list[Any]:
    """Mesh specs from 'data=2,expert=8'; an axis that is not named has size 1. Raises SpecError for what is no mesh."""
    from moejax.core.errors import SpecError
    from moejax.core.spec import build_spec
    from moejax.sharding.mesh import MeshSpec

    found = []
    for text in texts or []:
        try:
            sizes = {name: int(size) for name, size in (part.split("=") for part in text.split(","))}
        except ValueError as error:
            raise SpecError(f"--mesh {text!r} must look like data=2,expert=8.") from error
        found.append(build_spec(MeshSpec, {"data": 1} | sizes, path="--mesh"))
    return found or [default]


def plan(config: dict[str, Any]) -> tuple[list[Any], bool]:
    """An estimate for every mesh, and whether they were compiled. Raises SpecError before anything is compiled."""
    import dataclasses

    from model_cost import summary

    from moejax.core.spec import build_spec
    from moejax.planning import chips, estimate, step
    from moejax.train.optimizers import Optimizer
    from moejax.train.program import Program
    from moejax.train.restructured import build_task
    from moejax.train.spec import Train

    topology = str(_TOPOLOGY.value)
    count, chip = chips.num_chips(topology), chips.parse(topology)[0]
    train = build_spec(Train, config["train"], path="config.train")
    task, batch_size = build_task(config), _BATCH_SIZE.value or config["data"]["batch_size"]
    optimizer = build_spec(Optimizer, config["optimizer"], path="config.optimizer")
    specs = meshes(_MESH.value, train.mesh)
    for spec in specs:
        spec.solved(count)
    cost, plain = (
        summary(one, batch_size) for one in (config, config | {"model": config["model"] | {"remat": "none"}})
    )
    activated, padding, all_flops, all_padding = (
        one.total(f"step_{kind}flops_per_example") * batch_size / count
        for one in (plain, cost) for kind in ("", "padding_")
    )  # fmt: skip
    compiled = chips.can_compile(topology)
    devices = chips.devices(topology) if compiled else None
    length = config["data"].get("sequence_length")
    rows = step.rows_per_chip(task.model, batch_size, count, length)
    found = []
    for spec in specs:
        mesh = spec.build(devices) if compiled else spec.abstract(count)
        one = dataclasses.replace(train, mesh=spec)
        program = Program(task, optimizer, one, seed=0, batch_size=batch_size, mesh=mesh)
        batch = task.batch_shapes(batch_size, length)
        made = step.compile_step(program, batch, rows=rows) if compiled else step.Step(held=step.held(program))
        found.append(
            estimate.estimate(
                spec.named, made, chip, activated_flops=activated, padding_flops=padding,
                again_flops=all_flops + all_padding - activated - padding,
                activation_bytes=cost.total("activation_bytes") / count,
            )
        )  # fmt: skip
        print(f"{spec.named}: {estimate.verdict(found[-1])}", file=sys.stderr, flush=True)
    return found, compiled


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if _FAST.value:
        os.environ["JAX_OPTIMIZATION_LEVEL"] = "O0"
    from moejax.core.errors import SpecError
    from moejax.planning.estimate import best, table, verdict

    try:
        found, compiled = plan(_CONFIG.value.to_dict())
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    chosen = best(found)
    if _JSON.value:
        content = {"topology": _TOPOLOGY.value, "compiled": compiled, "best": chosen and chosen.mesh}
        print(json.dumps(content | {"meshes": [one.to_dict() for one in found]}, indent=2))
    else:
        print(table(found))
        if not compiled:
            print(
                "Not compiled (extras [tpu-aot], [gpu-aot]): memory is arithmetic over shapes; communication is not counted."
            )
        print(f"best: {chosen.mesh}" if chosen else f"no mesh fits; {verdict(found[0])}")
    if _PICTURE.value:
        from moejax.planning.picture import draw

        draw(found, _PICTURE.value)
    sys.exit(0 if chosen else 1)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "topology"])
    app.run(main, flags_parser=flag_errors.parse)
