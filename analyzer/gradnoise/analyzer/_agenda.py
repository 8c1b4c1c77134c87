"""What is to be done, and when: a queue whose entries can be due later and are held once."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["Agenda"]

T = TypeVar("T", bound="Hashable")


class Agenda(Generic[T]):
    """Entries in the order in which they are due; an entry put again has its new time only."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._current: dict[T, int] = {}  # the one of an entry's places in the heap that counts
        self._numbers = itertools.count()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, entry: T, delay: float = 0.0) -> None:
        """Let an entry be due in ``delay`` seconds."""
        with self._changed:
            number = next(self._numbers)
            self._current[entry] = number
            heapq.heappush(self._heap, (time.monotonic() + delay, number, entry))
            self._changed.notify()

    def take(self) -> T | None:
        """Wait for the next entry that is due and take it off; None once the agenda is closed."""
        with self._changed:
            while not self._closed:
                left = None
                while self._heap:
                    due, number, entry = self._heap[0]
                    if self._current.get(entry) == number:
                        left = due - time.monotonic()
                        if left <= 0:
                            del self._current[entry]
                            heapq.heappop(self._heap)
                            return entry
                        break
                    heapq.heappop(self._heap)
                self._changed.wait(left)
            return None

    def close(self) -> None:
        """Let every :meth:`take` return None, now and from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
