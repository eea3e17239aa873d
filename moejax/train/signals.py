"""SIGTERM and Ctrl-C as a wish that the loop reads between steps."""

import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils


class Signals:
    """Notes SIGTERM and SIGINT while it is entered; a second one acts as usual. Does nothing off the main thread.

    With several processes a signal to any of them stops all after the same step: jax, which takes SIGTERM itself there,
    agrees on one that none of them has passed. Source: ours, over the preemption service of `jax.distributed`.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def stop(self, step: int) -> bool:
        """Whether to stop before step number `step` (from 0, one more at every call): the same in all processes."""
        if jax.process_count() > 1 and self.received is None and multihost_utils.reached_preemption_sync_point(step):
            self.received = signal.SIGTERM
        return self.received is not None

    def _note(self, number: int, _: Any) -> None:
        self._restore()
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.received = number

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
