"""SIGTERM and Ctrl-C as a wish that the loop reads between steps and between the batches of an evaluation."""

import os
import signal
import sys
import threading
from typing import Any

import jax
from jax.experimental import multihost_utils


class Signals:
    """Notes SIGTERM and SIGINT while it is entered. Does nothing off the main thread.

    grace: seconds from the signal until the state must be saved (None: as long as it takes). When they are over the process ends
    with code 1 and says so, as whoever sent the signal is about to kill it: what was saved before is whole.
    Another SIGTERM changes nothing, since schedulers repeat it (Slurm sends one at its limit after the one that --signal asks
    for). Ctrl-C after the first signal, or twice, ends the process at once with code 130: the user does not want to wait.
    With several processes a signal to any of them stops all at the same place: jax, which takes SIGTERM itself there, agrees on
    one that none of them has passed. Source: ours, over the preemption service of `jax.distributed`.
    """

    def __init__(self, grace: float | None = None) -> None:
        self.received: int | None = None
        self.grace = grace
        self._calls, self._interrupted = 0, False
        self._previous: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "Signals":
        for number in (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *_: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def stop(self) -> bool:
        """Whether to stop here: the same in all processes, which must all ask at the same places."""
        self._calls += 1
        if (
            jax.process_count() > 1
            and self.received is None
            and multihost_utils.reached_preemption_sync_point(self._calls)
        ):
            self._receive(signal.SIGTERM)
        return self.received is not None

    def _note(self, number: int, _: Any) -> None:
        if number == signal.SIGINT and (self.received is not None or self._interrupted):
            print("stopped at once; what was saved before is whole.", file=sys.stderr, flush=True)
            os._exit(128 + number)
        self._interrupted = number == signal.SIGINT
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.received is None:
            self._receive(number)

    def _receive(self, number: int) -> None:
        self.received = int(number)
        if self.grace is not None:
            self._timer = threading.Timer(self.grace, _too_late, (self.grace,))
            self._timer.daemon = True
            self._timer.start()


def _too_late(grace: float) -> None:
    print(
        f"error: not saved within --grace_seconds={grace:g} of the signal; what was saved before is whole, and the same command "
        "goes on from there.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
