"""Several processes as one run: how they find each other, what they agree on, and how the rest end when one is lost."""

import dataclasses
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Literal, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from moejax.core.errors import SpecError

COORDINATOR = "JAX_COORDINATOR_ADDRESS"
COUNT = "JAX_NUM_PROCESSES"
INDEX = ("JAX_PROCESS_ID", "JOB_COMPLETION_INDEX")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """coordinator: 'host:port' at which process 0 listens; count: processes; index: number of this one, from 0.

    None: from the environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID (or JOB_COMPLETION_INDEX); under
    Slurm, Open MPI and on TPU pods jax finds all three itself. start: 'auto' where either gives more than one process,
    'always' (an error where nothing gives them; with count=1 this process alone, whose devices then sum over each other in the
    order in which those of several processes do, so that its numbers are theirs to the bit) or 'never'. heartbeat: seconds of silence after which a process counts as
    lost and the others end. patience: seconds that the start waits for all. Source: ours, over `jax.distributed`.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None
    start: Literal["auto", "always", "never"] = "auto"
    heartbeat: int = 60
    patience: int = 300

    def __post_init__(self) -> None:
        for name in ("heartbeat", "patience"):
            if getattr(self, name) < 1:
                raise SpecError(f"train.processes.{name}={getattr(self, name)} must be at least 1 second.")

    def found(self, environment: Mapping[str, str]) -> "Processes":
        """With what is None taken from `environment`. Raises SpecError for numbers that are none."""
        index = next((environment[name] for name in INDEX if name in environment), None)
        return dataclasses.replace(
            self,
            coordinator=self.coordinator or environment.get(COORDINATOR),
            count=self.count if self.count is not None else _number(COUNT, environment.get(COUNT)),
            index=self.index if self.index is not None else _number(" or ".join(INDEX), index),
        )

    def join(self) -> None:
        """Becomes one of the run's processes; before anything else asks jax for devices. Does nothing for a single process.

        Raises SpecError where part of what is needed is missing, ConnectionError where the others are not found in time.
        """
        if self.start == "never" or jax.distributed.is_initialized():
            return
        found = self.found(os.environ)
        if found.coordinator is None and found.count is None and found.index is None:
            if self.start == "always" or _managed(os.environ):
                self._initialise(found)
            return
        if found.count == 1 and self.start == "always" and found.coordinator is None:
            found = dataclasses.replace(found, coordinator=_own_coordinator(), index=found.index or 0)
        found._check()
        if found.count != 1 or self.start == "always":
            self._initialise(found)

    def _check(self) -> None:
        given = {"coordinator": self.coordinator, "count": self.count, "index": self.index}
        if missing := [name for name, value in given.items() if value is None]:
            raise SpecError(
                f"train.processes: {', '.join(missing)} unknown, but {', '.join(given.keys() - set(missing))} given; give all "
                f"three, or set {COORDINATOR}, {COUNT} and {INDEX[0]}; without any of them one process runs."
            )
        assert self.coordinator is not None and self.count is not None and self.index is not None
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise SpecError(f"train.processes.coordinator={self.coordinator!r} must be host:port, such as node0:8476.")
        if not 0 <= self.index < self.count:
            raise SpecError(f"train.processes.index={self.index} must lie in [0, count={self.count}).")

    def _initialise(self, found: "Processes") -> None:
        if found.coordinator is not None and found.index:
            self._wait_for(found.coordinator, found.index, found.count)
        elif found.coordinator is not None:
            # Where the others do not come, jax ends this process with a trace of its own.
            waits = (
                f"process 0 of {found.count} listens at {found.coordinator} and waits {self.patience} s for the others"
            )
            print(waits, file=sys.stderr, flush=True)
        try:
            jax.distributed.initialize(
                found.coordinator,
                found.count,
                found.index,
                initialization_timeout=self.patience,
                heartbeat_timeout_seconds=self.heartbeat,
            )
        except (RuntimeError, ValueError) as error:
            where = f"at {found.coordinator}" if found.coordinator else "by jax's own detection"
            raise ConnectionError(self._alone(found.index, found.count, where, error)) from error

    def _wait_for(self, coordinator: str, index: int, count: int | None) -> None:
        """Returns when somebody listens there: jax's own client, when nobody does, ends the process without a word of use."""
        host, _, port = coordinator.rpartition(":")
        until = time.monotonic() + self.patience
        while True:
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=max(self.patience / 10, 1.0)).close()
                return
            except OSError as error:
                if time.monotonic() > until:
                    raise ConnectionError(self._alone(index, count, f"at {coordinator}", error)) from error
                time.sleep(0.2)

    def _alone(self, index: int | None, count: int | None, where: str, error: Exception) -> str:
        return (
            f"process {index} of {count} did not find the others {where} within {self.patience} s: "
            f"{str(error).strip().splitlines()[0]}. Start all of them, process 0 at the coordinator's address; "
            "train.processes.start=never runs this one alone."
        )


def is_writer() -> bool:
    """Whether this process writes logs and prints: the first one."""
    return jax.process_index() == 0


def agreed(ok: bool) -> bool:
    """True where it is true in every process; all of them must ask. Source: ours."""
    if jax.process_count() == 1:
        return ok
    return bool(np.all(multihost_utils.process_allgather(np.int32(ok))))


def summed(values: np.ndarray) -> np.ndarray:
    """uint64 [n] summed over all processes, modulo 2^64; all of them must ask. Source: ours."""
    if jax.process_count() == 1:
        return values
    halves = np.stack([values >> np.uint64(32), values & np.uint64(0xFFFFFFFF)]).astype(np.uint32)
    high, low = np.moveaxis(np.asarray(multihost_utils.process_allgather(halves)), 1, 0).astype(np.uint64)
    return np.asarray(np.sum((high << np.uint64(32)) + low, axis=0, dtype=np.uint64))


def together(what: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def leave(message: str, code: int = 1) -> NoReturn:
    """Says why and ends this process at once: waiting for the others, as an ordinary end does, could take for ever."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def _managed(environment: Mapping[str, str]) -> bool:
    """Whether a launcher that jax knows has started more than one process."""
    counts = [environment.get(name, "") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
    return any(count.isdigit() and int(count) > 1 for count in counts) or "," in hosts


def _own_coordinator() -> str:
    """An address of this machine at which nobody listens yet."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise SpecError(f"{name}={text!r} in the environment must be a whole number.")
    return int(text)
