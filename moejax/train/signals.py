"""SIGTERM and Ctrl-C as a wish that the loop reads between steps."""

import signal
from typing import Any


class Signals:
    """Notes SIGTERM and SIGINT while it is entered; a second one acts as usual. Does nothing off the main thread."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *_: Any) -> None:
        self._restore()

    def _note(self, number: int, _: Any) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
