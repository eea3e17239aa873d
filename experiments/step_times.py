"""Times training steps of several configs in turn, so that whatever else the machine does disturbs all of them alike."""

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from moejax.core.spec import build_method, build_spec
from moejax.data import opening
from moejax.train.optimizers import Optimizer
from moejax.train.program import Program
from moejax.train.spec import Train

HOW = "median over {rounds} rounds of {steps} training steps each, models in turn, on one batch of {batch} pictures"


@dataclasses.dataclass(frozen=True)
class Timed:
    """milliseconds: median time of a step of every config. how: a sentence that says how it was measured."""

    milliseconds: dict[str, float]
    how: str


def measure(configs: Mapping[str, Mapping[str, Any]], *, rounds: int = 7, steps: int = 4) -> Timed:
    """Median milliseconds per training step, forward and backward pass and update, data loading left out.

    Every model is compiled and run once before the clock starts. Raises SpecError for a config that cannot be built.
    """
    batch_size = next(iter(configs.values()))["data"]["batch_size"]
    runners = {name: _runner(config) for name, config in configs.items()}
    for runner in runners.values():
        runner(2)
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            begin = time.perf_counter()
            runner(steps)
            seconds[name].append((time.perf_counter() - begin) / steps)
    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    return Timed(medians, HOW.format(rounds=rounds, steps=steps, batch=batch_size))


def read_config(path: Path, argument: str) -> dict[str, Any]:
    """The config that the file makes of `argument`, as plain dicts."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument).to_dict()


def _runner(config: Mapping[str, Any]) -> Callable[[int], None]:
    """A function that makes so many steps and returns when the last is done.

    The step is the training loop's own, so that its compiled program is found again when training starts.
    """
    task = build_method("tasks", {**config["task"], "model": config["model"]}, path="config.task")
    spec = build_spec(Train, config["train"], path="config.train")
    optimizer = build_spec(Optimizer, config["optimizer"], path="config.optimizer")
    dataset = opening.build(config["data"], path="config.data")
    program = Program(task, optimizer, spec, seed=config["seed"])
    with jax.set_mesh(program.mesh):
        batch = program.place(next(dataset.train_iterator(seed=config["seed"])))
        state = program.init()

    def run(count: int) -> None:
        nonlocal state
        with jax.set_mesh(program.mesh):
            for _ in range(count):
                state, _metrics = program.step(state, batch)
            jax.block_until_ready(state)

    return run
