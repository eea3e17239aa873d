"""Does the same command compute the same bits? A few steps twice, from scratch, compared leaf by leaf."""

import dataclasses
import hashlib
from typing import Any

import jax
import numpy as np

from moejax.core.tree import flatten
from moejax.train.fingerprints import fingerprints
from moejax.train.optimizers import Optimizer
from moejax.train.program import Program
from moejax.train.spec import Train, check_splits

STEPS = 5


class NotDeterministicError(RuntimeError):
    """Two runs of the same steps differ."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """steps: done twice. leaves: compared. fingerprint: of all of them and of the losses. losses: of each step."""

    steps: int
    leaves: int
    fingerprint: str
    losses: tuple[float, ...]

    def __str__(self) -> str:
        losses = ", ".join(f"{loss:.6g}" for loss in self.losses)
        return (
            f"deterministic: {self.steps} steps twice, batches, metrics and {self.leaves} leaves of parameters and optimiser state "
            f"equal bit by bit; fingerprint {self.fingerprint}; losses {losses}"
        )


def verify(task: Any, data: Any, optimizer: Optimizer, spec: Train, *, seed: int, steps: int = STEPS) -> Verdict:
    """Runs the first `steps` steps twice, the second time from new iterators and a newly compiled program.

    Nothing is written. The same fingerprint from the same command on another day, or on another machine of the same kind with
    the same versions, says that these compute the same too.
    Raises SpecError as a run does, NotDeterministicError naming the first batch, metric or leaf that differs. Source: ours.
    """
    check_splits(spec, data.info)
    steps = min(steps, spec.steps)
    first, second = (_marks(task, data, optimizer, spec, seed, steps) for _ in range(2))
    for name, mark in first.items():
        if second[name] != mark:
            raise NotDeterministicError(
                f"not deterministic: {name} differs between two runs of the same {steps} steps ({mark} and {second[name]}). "
                "If it is a batch, the data do; else the device's own sums do (on GPUs: XLA_FLAGS=--xla_gpu_deterministic_ops=true)."
            )
    whole = hashlib.sha256("\n".join(f"{name} {mark}" for name, mark in first.items()).encode()).hexdigest()[:16]
    losses = tuple(float.fromhex(mark) for name, mark in first.items() if name.endswith(": loss"))
    return Verdict(steps, sum(name.startswith("leaf ") for name in first), whole, losses)


def _marks(task: Any, data: Any, optimizer: Optimizer, spec: Train, seed: int, steps: int) -> dict[str, str]:
    """Fingerprints in the order of the computation: batch and metrics of each step, then all leaves of the state."""
    program = Program(task, optimizer, spec, seed=seed, batch_size=data.batch_size)
    part, parts = program.part
    share = {"num_processes": parts, "process": part} if parts > 1 else {}
    iterator = data.train_iterator(seed=seed, **share)
    found: dict[str, str] = {}
    with jax.set_mesh(program.mesh):
        state = program.init()
        for step in range(1, steps + 1):
            batch = program.place(next(iterator))
            found |= _of_tree(batch, f"batch {step}: ")
            state, metrics = program.step(state, batch)
            values = jax.device_get(metrics)
            found[f"step {step}: loss"] = float(values["loss"]).hex()
            found |= _of_tree(values, f"step {step}: metric ")
        tree = {name: getattr(state, name) for name in ("params", "state", "opt_state", "ema")}
        return found | _of_tree(tree, "leaf ")


def _of_tree(tree: Any, prefix: str) -> dict[str, str]:
    leaves = flatten(tree)
    arrays = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in leaves.values()]
    return dict(zip((prefix + name for name in leaves), fingerprints(arrays), strict=True))
