"""What a run computes: the state to begin with, the compiled step, and where their arrays lie. No data, no files."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from moejax.core.errors import SpecError
from moejax.sharding.mesh import BATCH_AXES
from moejax.sharding.rules import leaf_axes_of, param_specs, shardings, specs_like, split_fully
from moejax.train.optimizers import Optimizer
from moejax.train.spec import Train
from moejax.train.state import TrainState, create
from moejax.train.step import build_step


class Program:
    """mesh: the devices. template: TrainState of shapes. shardings: how each of its leaves lies over the mesh.

    step: `state, metrics = step(state, batch)`, compiled at its first call; it takes over the memory of `state`. everywhere:
    the sharding of arrays that every device holds whole.
    batch_size: pictures of a batch over all processes, where it is to be checked against the mesh. mesh: None for that of the spec over all devices.
    Raises SpecError for rules, meshes and options that do not fit the model or the batch. Source: ours.
    """

    def __init__(
        self,
        task: Any,
        optimizer: Optimizer,
        spec: Train,
        *,
        seed: int,
        batch_size: int | None = None,
        mesh: Mesh | AbstractMesh | None = None,
    ) -> None:
        self.mesh: Any = spec.mesh.build() if mesh is None else mesh
        self._batch_sharding = NamedSharding(self.mesh, spec.rules.spec("batch"))
        if batch_size is not None:
            self._check_batch(batch_size, spec)
        key = jax.random.key(seed)
        abstract_params, _ = jax.eval_shape(task.init, key)
        transformation = optimizer.build(abstract_params, spec.steps)
        self._create = lambda: create(task, transformation, key, ema=spec.ema_decay > 0)
        self.template: TrainState = jax.eval_shape(self._create)
        self.shardings = self._state_shardings(spec, leaf_axes_of(getattr(task, "model", None)))
        step = build_step(
            task,
            transformation,
            rate=optimizer.rate(spec.steps),
            accumulate_steps=spec.accumulate_steps,
            ema_decay=spec.ema_decay,
            skip_nonfinite=spec.on_nonfinite == "skip",
        )
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.step = jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, self.everywhere))

    def init(self) -> TrainState:
        """A fresh state on the devices of the mesh."""
        # Drawing the parameters runs once: on CPU its compilation, not its speed, is what one waits for.
        quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        options = quick if jax.default_backend() == "cpu" else None
        return jax.jit(self._create, out_shardings=self.shardings, compiler_options=options)()

    def check(self, batch: Mapping[str, np.ndarray]) -> None:
        """Traces the step for a host batch of this process. Raises SpecError where the model cannot take it; nothing is compiled.

        The compiled step uses the same trace, so that this costs no time.
        """
        _, count = self.part
        shapes = {
            name: jax.ShapeDtypeStruct(
                (count * len(rows), *rows.shape[1:]), jax.dtypes.canonicalize_dtype(np.asarray(rows).dtype)
            )
            for name, rows in batch.items()
        }
        with jax.set_mesh(self.mesh):
            jax.eval_shape(self.step, self.template, shapes)

    @functools.cached_property
    def part(self) -> tuple[int, int]:
        """(number, count): a batch is cut into `count` equal pieces, one after the other, of which this process gives one.

        Processes along mesh axis `model` give the same one. Raises SpecError where a process holds rows from several places.
        """
        devices = math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        pieces = {process: sorted(rows) for process, rows in self._rows_of_processes(devices).items()}
        own = pieces[jax.process_index()]
        if own != list(range(own[0], own[0] + len(own))) or own[0] % len(own) or devices % len(own):
            raise SpecError(
                f"process {jax.process_index()} would hold rows from several places of a batch (mesh "
                f"{dict(self.mesh.shape)}); choose `model` so that it divides, or is a multiple of, the devices of a process."
            )
        return own[0] // len(own), devices // len(own)

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host batch on the devices; with several processes each gives its own part."""
        if jax.process_count() == 1:
            return jax.device_put(dict(batch), self._batch_sharding)
        number, count = self.part
        return {name: self._placed(rows, number, count) for name, rows in batch.items()}

    def _placed(self, rows: np.ndarray, number: int, count: int) -> jax.Array:
        """The whole batch, from this process's rows of it."""

        def own(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(count * len(rows))
            return rows[start - number * len(rows) : stop - number * len(rows)]

        return jax.make_array_from_callback((count * len(rows), *rows.shape[1:]), self._batch_sharding, own)

    def _rows_of_processes(self, devices: int) -> dict[int, set[int]]:
        """Of a batch of one row per place of the mesh's batch axes: which rows lie with which process."""
        rows: dict[int, set[int]] = {}
        places: Any = self._batch_sharding.devices_indices_map((devices,))
        for device, index in places.items():
            rows.setdefault(device.process_index, set()).update(range(devices)[index[0]])
        return rows

    def _state_shardings(self, spec: Train, leaf_axes: Any) -> TrainState:
        template, split = self.template, self.mesh.shape["fsdp"]
        whole = param_specs(template.params, spec.rules, leaf_axes=leaf_axes)
        params = split_fully(template.params, whole, split)
        moments = specs_like(template.opt_state, template.params, params)
        specs = TrainState(
            step=PartitionSpec(),
            params=params if spec.fsdp == "params" else whole,
            state=jax.tree.map(lambda _: PartitionSpec(), template.state),
            opt_state=split_fully(template.opt_state, moments, split),
            ema=None if template.ema is None else params,
            key=PartitionSpec(),
        )
        return shardings(template, specs, self.mesh)

    def _check_batch(self, batch_size: int, spec: Train) -> None:
        devices = math.prod(self.mesh.shape[axis] for axis in spec.rules.batch)
        both = devices * spec.accumulate_steps, "devices times train.accumulate_steps"
        for parts, what in ((devices, "devices"), both):
            if batch_size % parts:
                raise SpecError(
                    f"a batch of {batch_size} cannot be split over {parts} {what} (mesh {spec.mesh.named}); choose a "
                    f"multiple of {parts}, or smaller sizes along {', '.join(spec.rules.batch)}."
                )
