"""Batches made and placed on a thread of their own, each with the data position after it."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

_END = object()


class Prefetch:
    """Iterates over (placed batch, iterator state after it). Errors of the thread are raised by `next`.

    The position travels with its batch, because the thread is ahead of the training loop. Source: ours.
    """

    def __init__(self, iterator: Any, place: Callable[[Any], Any], *, depth: int = 2) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(iterator, place), name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self

    def __next__(self) -> tuple[Any, Any]:
        item, error = self._queue.get()
        if error is not None:
            raise error
        if item is _END:
            raise StopIteration
        return item

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join(timeout=10)

    def _run(self, iterator: Any, place: Callable[[Any], Any]) -> None:
        try:
            for batch in iterator:
                if not self._put((place(batch), iterator.get_state()), None):
                    return
            self._put(_END, None)
        except BaseException as error:  # handed to the training loop, which raises it
            self._put(None, error)

    def _put(self, item: Any, error: BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put((item, error), timeout=0.2)
                return True
            except queue.Full:
                continue
        return False
